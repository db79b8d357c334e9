"""After SIGKILL at any moment only complete artifacts are visible, and the next run succeeds."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from deploy.core.errors import DigestError
from deploy.core.store import Store
from deploy.tools.verify import verify
from tests.nightly import by_day, pairs_by_day  # type: ignore[import-not-found,unused-ignore]

from .conftest import in_child, kill_at, listing, publish, version_of

Cli = Callable[..., int]
KILLED = -signal.SIGKILL


def killed_while_publishing(root: Path, version: int, at: int, files: int = 2) -> bool:
    def work() -> None:
        with kill_at(at):
            publish(root, version, files)

    return in_child(work) == KILLED


@pytest.mark.parametrize(
    ("files", "before"), pairs_by_day([1, 2, 3], [None, 1, 3], lambda *pair: pair in ((2, None), (3, 1), (1, 3)))
)
def test_at_every_call_of_the_writer(tmp_path: Path, files: int, before: int | None) -> None:
    calls, seen = 0, set()
    while killed_while_publishing(_with(tmp_path / str(calls), before or 1, before), 2, calls + 1, files):
        root = tmp_path / str(calls)
        left = listing(root)
        report = verify(root)
        assert report.problems == ()
        for artifact in Store(root).artifacts():
            with suppress(DigestError) if report.unfinished else nullcontext():
                artifact.verify()
        assert listing(root) == left, "readers leave it as it is"
        seen.add(version_of(root))
        assert not verify(root).problems and not verify(root).unfinished
        publish(root, 4, files)
        assert version_of(root) == 4 and len(listing(root)) == files + 1
        calls += 1
    assert calls >= 12 and seen == {before, 2}, (calls, seen)


def _with(root: Path, files: int, version: int | None) -> Path:
    root.mkdir()
    if version is not None:
        publish(root, version, files)
    return root


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (2, 1)])
def test_files_that_the_new_one_no_longer_has_go(tmp_path: Path, before: int, after: int) -> None:
    publish(tmp_path, 1, before)
    publish(tmp_path, 2, after)
    assert len(listing(tmp_path)) == after + 1 and verify(tmp_path).problems == ()


COMMANDS = {
    "export": (8, ("export", "zoo/lenet5", "--weights", "none")),
    "quantize": (12, ("quantize", "zoo/lenet5", "--calib", "digits", "--samples", "8")),
    "train": (5, ("train", "zoo/lenet5", "--data", "digits", "--epochs", "1")),
    "trt build": (10, ("trt", "build", "zoo/lenet5", "--runtime", "tensorrt-rtx")),
    "bench": (6, ("bench", "zoo/lenet5", "--backends", "onnxruntime", "--repetitions", "1", "--min-time", "0.05")),
}
"""Number of kills, and arguments, of each command."""
SAME = (".onnx", ".calibration.json")
"""Suffixes of files that two runs write identically."""


@pytest.mark.parametrize("name", by_day(COMMANDS, "trt build", "bench"))
def test_a_command(cli: Cli, lenet5: Path, tmp_path: Path, name: str) -> None:
    times, words = COMMANDS[name]
    start = tmp_path / "start"
    if name not in ("export", "train"):
        shutil.copytree(lenet5, start)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(start, undisturbed) if start.exists() else None
    assert cli(*words, at=undisturbed) == 0
    began = time.monotonic()
    assert cli(*words, at=undisturbed) == 0  # again: what the first one imported is warm
    lasts = time.monotonic() - began
    expected = same(undisturbed)
    chance = random.Random(name)
    store, killed = tmp_path / "artifacts", 0
    for number in range(times):
        if number % 5 == 0:
            shutil.rmtree(store, ignore_errors=True)
            shutil.copytree(start, store) if start.exists() else store.mkdir()
        killed += cli(*words, kill_after_s=chance.uniform(0, lasts)) == KILLED
        assert verify(store).problems == (), number
        for artifact in Store(store).artifacts():
            artifact.verify()
        if number == times - 1:
            assert cli(*words) == 0
            assert same(store) == expected
    assert killed >= times / 3


def same(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in listing(root).items() if name.endswith(SAME)}
