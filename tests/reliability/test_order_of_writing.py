"""The order of a writer's system calls, recorded by strace."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACED = "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat"

PUBLISH = """
import sys
from pathlib import Path
from tests.reliability.conftest import publish
publish(Path(sys.argv[1]), 1)
"""
REPLACE = PUBLISH + "publish(Path(sys.argv[1]), 2)\n"
RECORD = """
import sys
from pathlib import Path
from deploy.core import records
records.save(Path(sys.argv[1]) / "bench" / "cell.json", "test", 1, {"value": 1})
"""


def traced(code: str, folder: Path) -> list[tuple[str, str]]:
    """Return the system calls on files in a folder, as (name, path relative to the folder)."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    log = folder.parent / "calls"
    command = ["strace", "-f", "-y", "-o", str(log), "-e", f"trace={TRACED}", sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    found = []
    for line in log.read_text().splitlines():
        call = re.match(r"\d+\s+(\w+)\((.*)\)\s+=\s+\d+", line)
        if call is None or str(folder) not in line:
            continue
        paths = re.findall(rf'[<"]{re.escape(str(folder))}/?([^>"]*)[>"]', call[2])
        if call[1] == "openat" and "O_CREAT" not in call[2]:
            continue
        found += [(call[1], _short(paths[-1]))]
    return found


def _short(path: str) -> str:
    """Remove the parts of a path that differ from run to run."""
    return re.sub(r"(\.scratch-|\.publishing-|ready-)[^/]*?(?=$|/|-cell)", r"\1", path)


def places(calls: list[tuple[str, str]], *wanted: tuple[str, str]) -> list[int]:
    """Return the positions of calls; each must exist."""
    for item in wanted:
        assert item in calls, (item, calls)
    return [calls.index(item) for item in wanted]


def test_a_record(tmp_path: Path) -> None:
    calls = traced(RECORD, tmp_path / "store")
    order = places(
        calls,
        ("openat", "bench/.scratch--cell.json"),
        ("write", "bench/.scratch--cell.json"),
        ("fsync", "bench/.scratch--cell.json"),
        ("rename", "bench/cell.json"),
        ("fsync", "bench"),
    )
    assert order == sorted(order), calls


def test_every_file_is_on_the_disk_before_any_is_renamed_in(tmp_path: Path) -> None:
    calls = traced(PUBLISH, tmp_path / "store")
    names = ("net.onnx", "net.onnx.data", "net.onnx.json")
    for name in names:
        written, flushed = places(calls, ("write", f"net/.scratch-/{name}"), ("fsync", f"net/.scratch-/{name}"))
        assert written < flushed, calls
    last_flush = max(places(calls, *(("fsync", f"net/.scratch-/{name}") for name in names)))
    first_rename = min(index for index, call in enumerate(calls) if call[0].startswith("rename"))
    assert last_flush < first_rename, calls


def test_the_files_folder_is_flushed_and_renamed_once_before_they_are_moved(tmp_path: Path) -> None:
    calls = traced(PUBLISH, tmp_path / "store")
    ready, committed = places(calls, ("fsync", "net/.scratch-/ready-"), ("rename", "net/.publishing-"))
    moved = places(calls, ("rename", "net/net.onnx.data"), ("rename", "net/net.onnx"), ("rename", "net/net.onnx.json"))
    (flushed,) = places(calls, ("fsync", "net"))
    assert [ready, committed, *moved, flushed] == sorted([ready, committed, *moved, flushed]), calls


def test_what_is_replaced_is_kept_until_all_is_moved(tmp_path: Path) -> None:
    calls = traced(REPLACE, tmp_path / "store")
    kept = [index for index, call in enumerate(calls) if call[0].startswith("link")]
    removed = [index for index, call in enumerate(calls) if call == ("unlinkat", "net/.publishing-")]
    last_move = max(index for index, call in enumerate(calls) if call == ("rename", "net/net.onnx.json"))
    assert len(kept) == 3 and removed and max(kept) < last_move < removed[-3], calls
