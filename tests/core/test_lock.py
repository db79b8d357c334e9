"""Locks between processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.core.errors import StorageError
from deploy.core.lock import locked, unwritten
from deploy.core.names import LOCK

HOLD = """
import sys, time
from pathlib import Path
from deploy.core.lock import {how}
with {how}(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
    print(time.time(), flush=True)
"""


def _hold(folder: Path, seconds: float, how: str = "locked") -> "subprocess.Popen[str]":
    code = [sys.executable, "-c", HOLD.format(how=how), str(folder), str(seconds)]
    process = subprocess.Popen(code, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def test_writers_and_readers_wait_for_a_writer(tmp_path: Path) -> None:
    for context in (locked, unwritten):
        with _hold(tmp_path, 0.5) as holder:
            with context(tmp_path):
                locked_at = time.time()
            assert holder.stdout is not None and float(holder.stdout.readline()) <= locked_at


def test_readers_do_not_wait_for_readers(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    with _hold(tmp_path, 60, "unwritten") as holder:
        with unwritten(tmp_path):
            assert holder.poll() is None
        holder.kill()


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    with _hold(tmp_path, 600) as holder:
        holder.kill()
        holder.wait()
        began = time.monotonic()
        with locked(tmp_path):
            assert time.monotonic() - began < 60


def test_the_lock_file_is_not_truncated(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("content")
    with locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "content"


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights on Windows")
@pytest.mark.parametrize("context", [locked, unwritten])
@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, context, exists: bool) -> None:  # type: ignore[no-untyped-def]
    other = tmp_path / "other"
    if exists:
        other.write_text("content")
    (tmp_path / LOCK).symlink_to(other)
    with pytest.raises(StorageError), context(tmp_path):
        pass
    assert other.exists() == exists and (not exists or other.read_text() == "content")


def test_a_folder_that_was_never_written_has_no_lock_file(tmp_path: Path) -> None:
    with unwritten(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()
