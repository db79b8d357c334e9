"""`deploy verify` finds every change to an artifacts directory."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.tools.verify import verify

FLIPS, OTHERS = 80, 8
Change = Callable[[Path, random.Random], None]


@pytest.fixture(scope="module")
def filled(lenet5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts directory with an export, an INT8 graph, a calibration table, a benchmark record and an engine."""
    from deploy.cli.main import main

    root = tmp_path_factory.mktemp("filled") / "artifacts"
    shutil.copytree(lenet5, root)
    for words in (
        ("quantize", "zoo/lenet5", "--calib", "digits", "--samples", "8"),
        ("bench", "lenet5", "--backends", "onnxruntime", "--repetitions", "1", "--min-time", "0.01"),
        ("trt", "build", "lenet5", "--runtime", "tensorrt-rtx"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["--artifacts", str(root), "-q", *words])
        assert not ended.value.code, words
    return root


def files(root: Path) -> list[Path]:
    """Return all results; locks and limits of the machine are none."""
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and ".limits" not in path.parts]
    return [path for path in found if path.name != ".lock" and path.suffix not in (".log",)]


def test_nothing_is_wrong_before(filled: Path) -> None:
    report = verify(filled)
    assert report.problems == () and len(report.sound) >= 4
    kinds = {path.suffix for path in files(filled)}
    assert {".onnx", ".json", ".engine"} <= kinds


@pytest.mark.parametrize("seed", range(FLIPS))
def test_a_flipped_bit(filled: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = chance.choice(files(filled))
    before = path.read_bytes()
    place, bit = chance.randrange(len(before)), chance.randrange(8)
    after = bytearray(before)
    after[place] ^= 1 << bit
    try:
        path.write_bytes(after)
        assert verify(filled).problems, f"{path.name}: bit {bit} of byte {place}"
    finally:
        path.write_bytes(before)


def add_beside(path: Path, chance: random.Random) -> None:
    path.with_name(f"extra-{chance.randrange(99)}{path.suffix}").write_bytes(b"x")


def remove(path: Path, chance: random.Random) -> None:
    """Never a benchmark record: a missing one is simply measured again."""
    path.unlink()


def rename(path: Path, chance: random.Random) -> None:
    path.rename(path.with_name(f"other-{path.name}"))


def link(path: Path, chance: random.Random) -> None:
    """The same content, elsewhere."""
    away = path.parents[2] / f"away-{chance.randrange(10**6)}"
    shutil.move(path, away)
    path.symlink_to(away)


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def append(path: Path, chance: random.Random) -> None:
    with path.open("ab") as stream:
        stream.write(b"\n")


CHANGES: tuple[Change, ...] = (add_beside, remove, rename, link, truncate, append)


@pytest.mark.parametrize("seed", range(OTHERS))
@pytest.mark.parametrize("change", CHANGES)
def test_another_change(filled: Path, tmp_path: Path, change: Change, seed: int) -> None:
    root = tmp_path / "changed"
    shutil.copytree(filled, root)
    there = [path for path in files(root) if path.parent.name != "bench" or change is not remove]
    path = there[(seed * 7) % len(there)]
    change(path, random.Random(seed))
    assert verify(root).problems, path.name
