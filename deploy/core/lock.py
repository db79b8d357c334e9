"""One writer of a folder at a time; the system frees the lock of a process that died."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if os.name == "posix":
    import fcntl

_NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until nobody else writes, and keep others out."""
    if os.name != "posix":
        yield
        return
    with (folder / _NAME).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def unwritten(folder: Path) -> Iterator[None]:
    """Wait until nobody writes, and keep writers out; a folder that was never written has no lock to wait for."""
    path = folder / _NAME
    if os.name != "posix" or not path.is_file():
        yield
        return
    with path.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
