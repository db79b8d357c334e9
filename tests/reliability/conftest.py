"""Shared by the tests of this folder: writers of artifacts, failing disks and killed processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.core.artifact import Artifact, Manifest, Payload
from deploy.core.model import Weights
from deploy.core.store import Store

EXPORTED = ("export", "zoo/lenet5", "--weights", "none")
CALLS = ("fsync", "replace", "rename", "mkdir")
"""System calls of a writer after the bytes are written; each of them can fail."""
ENDS = (*CALLS, "link", "unlink", "rmdir")
"""System calls of a writer before each of which it can be killed."""


def publish(root: Path, version: int, files: int = 2) -> Artifact:
    """Publish an artifact of several files whose contents depend on the version."""
    with Store(root).transaction("net") as transaction:
        names = ["net.onnx", "net.onnx.data", "net.labels"][:files]
        for name in names:
            transaction.path(name).write_bytes(f"{name} version {version} ".encode() * 500)
        return transaction.publish(
            Manifest(
                model="zoo/net",
                slug="net",
                format="onnx",
                precision="fp32",
                files=tuple(Payload.of(transaction.path(name)) for name in names),
                inputs=(),
                outputs=(),
                weights=Weights(source="untrained", trained=False, seed=version),
            )
        )


def version_of(root: Path) -> int | None:
    """Return the version that `publish` wrote, as the next writer finds it, after verifying it; None if there is none.

    Opening a transaction finishes what a killed process was publishing; reading does not.
    """
    with Store(root).transaction("net"):
        found = Store(root).artifacts("net")
    if not found:
        return None
    (artifact,) = found
    artifact.verify()
    return artifact.manifest.weights.seed


def listing(root: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder, except lock files."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


class Counted:
    """Counts some of this process's calls, and runs a function at one of them."""

    def __init__(self, at: int | None, then: Callable[[str], None], calls: tuple[str, ...] = CALLS) -> None:
        self.count, self._at, self._then, self._calls = 0, at, then, calls

    def __enter__(self) -> Counted:
        self._before = {name: getattr(os, name) for name in self._calls}
        for name, call in self._before.items():
            setattr(os, name, self._wrapped(name, call))
        return self

    def __exit__(self, *exc: object) -> None:
        for name, call in self._before.items():
            setattr(os, name, call)

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self._at:
                self._then(name)
            return call(*args, **kwargs)

        return counted


@contextmanager
def failing(at: int, number: int = errno.EIO) -> Iterator[Counted]:
    """Let one call fail with an error of the disk."""

    def refuse(name: str) -> None:
        raise OSError(number, os.strerror(number))

    with Counted(at, refuse) as counted:
        yield counted


def in_child(work: Callable[[], object]) -> int:
    """Run a function that starts no threads in a forked process; return its status, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(at: int) -> Counted:
    """Kill this process at one call, as by SIGKILL."""
    return Counted(at, lambda name: os.kill(os.getpid(), signal.SIGKILL), ENDS)


@pytest.fixture(scope="session")
def zygote() -> Iterator[subprocess.Popen[str]]:
    """See `_zygote`."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("_zygote.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def cli(store: Path, zygote: subprocess.Popen[str]) -> Callable[..., int]:
    """Run the command line in a forked process; ``kill_after_s`` kills it and its children; returns its status."""

    def call(
        *arguments: object, at: Path | None = None, kill_after_s: float | None = None, memory: int | None = None
    ) -> int:
        words = ["--artifacts", str(at or store), "-q", *map(str, arguments)]
        assert zygote.stdin is not None and zygote.stdout is not None
        zygote.stdin.write(json.dumps({"words": words, "kill_after_s": kill_after_s, "memory": memory}) + "\n")
        zygote.stdin.flush()
        return int(zygote.stdout.readline())

    return call
