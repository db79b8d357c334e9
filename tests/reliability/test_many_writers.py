"""Eight processes write one artifact: one wins, readers never see a mix, and dead processes hold no lock."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.core.errors import DigestError
from deploy.core.store import Store
from deploy.tools.verify import verify
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

from .conftest import EXPORTED, listing, publish, version_of

WRITERS, EXPORTS, ROUNDS, REPEATS = 8, 4, 25, 3


def started(work: Callable[[], object]) -> int:
    """Run a function in a forked process; return its process ID."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write(root: Path, version: int) -> None:
    for repeat in range(REPEATS):
        publish(root, version * 100 + repeat, files=3)


def read(root: Path, stop: Path) -> None:
    """Read until the file ``stop`` exists; an artifact that is damaged, not replaced or half published, raises."""
    while not stop.exists():
        for artifact in Store(root).artifacts("net"):
            try:
                artifact.verify()
            except DigestError as exc:
                assert "another process" in exc.message or "was killed" in exc.message, exc.message


@pytest.mark.parametrize("number", by_day(range(ROUNDS), *range(8)))
def test_one_wins_whole_and_the_dead_hold_no_lock(tmp_path: Path, number: int) -> None:
    root, stop = tmp_path / "artifacts", tmp_path / "stop"
    publish(root, 0, files=3)
    readers = [started(lambda: read(root, stop)) for _ in range(2)]
    writers = [started(lambda version=version: write(root, version)) for version in range(1, WRITERS + 1)]  # type: ignore[misc]
    chance = random.Random(number)
    time.sleep(chance.uniform(0, 0.1))
    victim = chance.choice(writers)
    os.kill(victim, signal.SIGKILL)
    statuses = [ended(child) for child in writers]
    stop.touch()
    assert [ended(child) for child in readers] == [0, 0]
    assert [code for code in statuses if code] in ([], [-signal.SIGKILL])
    version = version_of(root)
    assert version is not None
    assert version % 100 == REPEATS - 1 or version // 100 == writers.index(victim) + 1
    assert verify(root).problems == ()
    publish(root, 9999, files=3)
    assert version_of(root) == 9999 and len(listing(root)) == 4


@pytest.mark.slow
def test_exports_at_the_same_time(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "deploy.cli.main", "--artifacts", str(tmp_path), "-q", *EXPORTED]
    exports = [subprocess.Popen([*command, "--seed", str(seed)], stdout=subprocess.DEVNULL) for seed in range(EXPORTS)]
    assert [process.wait() for process in exports] == [0] * EXPORTS
    (artifact,) = (item for item in Store(tmp_path).artifacts() if item.manifest.format == "onnx")
    assert artifact.manifest.weights.seed in range(EXPORTS)
    assert verify(tmp_path).problems == ()
    assert {name for name in listing(tmp_path) if ".scratch-" in name or ".publishing-" in name} == set()
