"""What the tests of this folder share: a writer of real artifacts, a disk that fails, and processes that are killed."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from deploy.core.artifact import Artifact, Manifest, Payload
from deploy.core.model import Weights
from deploy.core.store import Store

EXPORTED = ("export", "zoo/lenet5", "--weights", "none")
CALLS = ("fsync", "replace", "rename", "mkdir")
"""What a writer asks of the system after the bytes are written; each can fail."""


def publish(root: Path, version: int, files: int = 2) -> Artifact:
    """An artifact of several files whose contents tell their version."""
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
    """Which version of `publish` is there, complete; None where there is none."""
    found = Store(root).artifacts("net")
    if not found:
        return None
    (artifact,) = found
    artifact.verify()
    return artifact.manifest.weights.seed


def listing(root: Path) -> dict[str, bytes]:
    """Every file below a folder but locks, with its content."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


class Counted:
    """Counts the calls of `CALLS` of this process, and does something at one of them."""

    def __init__(self, at: int | None, then: Callable[[str], None]) -> None:
        self.count, self._at, self._then = 0, at, then

    def __enter__(self) -> Counted:
        self._before = {name: getattr(os, name) for name in CALLS}
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
    """The disk refuses one call."""

    def refuse(name: str) -> None:
        raise OSError(number, os.strerror(number))

    with Counted(at, refuse) as counted:
        yield counted


def in_child(work: Callable[[], object], kill_after_s: float | None = None) -> int:
    """Run something in a forked process of its own process group; its status, negative for a signal.

    Args:
        work: what it does; the status is that of a SystemExit, else 0, or 99 for another exception.
        kill_after_s: SIGKILL to it and to all it has started, after so many seconds.
    """
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        code = 99
        try:
            with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
                work()
            code = 0
        except SystemExit as exc:
            code = int(exc.code or 0)
        finally:
            os._exit(code)
    try:
        if kill_after_s is not None:
            _wait_or_kill(child, kill_after_s)
        _, status = os.waitpid(child, 0)
    except ChildProcessError:  # it was waited for
        return 0
    return os.waitstatus_to_exitcode(status)


def _wait_or_kill(child: int, after_s: float) -> None:
    import select

    handle = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([handle], [], [], after_s)
    finally:
        os.close(handle)
    if not ended:
        os.killpg(child, signal.SIGKILL)


def kill_at(at: int) -> Counted:
    """This process ends as by SIGKILL at one call."""
    return Counted(at, lambda name: os.kill(os.getpid(), signal.SIGKILL))


@pytest.fixture(scope="session")
def lenet5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts directory with a proven export; a test that changes it takes a copy."""
    from deploy.cli.main import main

    folder = tmp_path_factory.mktemp("lenet5") / "artifacts"
    with pytest.raises(SystemExit) as ended:
        main(["--artifacts", str(folder), "-q", *EXPORTED])
    assert not ended.value.code
    return folder


@pytest.fixture
def cli(store: Path) -> Callable[..., int]:
    """The command line in a forked process: its status; ``kill_after_s`` kills it and its children."""
    from deploy.cli.main import main

    def call(*arguments: object, at: Path | None = None, kill_after_s: float | None = None) -> int:
        words = ["--artifacts", str(at or store), "-q", *map(str, arguments)]
        return in_child(lambda: main(words), kill_after_s)

    return call
