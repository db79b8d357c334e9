"""One writer per folder at a time; the system frees the lock of a process that died."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.core.errors import StorageError

LOCK = ".lock"
"""Name of the lock file in a folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process writes to a folder, and keep other writers out."""
    with _lock(folder / LOCK, shared=False):
        yield


@contextmanager
def unwritten(folder: Path) -> Iterator[None]:
    """Wait until no process writes to a folder, and keep writers out; a folder without a lock file has no writers."""
    path = folder / LOCK
    if not path.exists() and not path.is_symlink():
        yield
        return
    with _lock(path, shared=True):
        yield


@contextmanager
def _lock(path: Path, *, shared: bool) -> Iterator[None]:
    import portalocker  # here, since its import takes time and most commands lock nothing

    if path.is_symlink():
        raise StorageError(f"{path}: the lock file is a symbolic link.", f"rm {path}")
    flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
    handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    with os.fdopen(handle, "rb" if shared else "r+b", buffering=0) as file:
        # Windows has shared locks only with the package pywin32
        kind = portalocker.LOCK_SH if shared and os.name == "posix" else portalocker.LOCK_EX
        while True:
            try:
                portalocker.lock(file, kind)
                break
            except portalocker.AlreadyLocked:  # Windows gives up after 10 s
                continue
            except portalocker.LockException as exc:
                raise StorageError(f"{path}: cannot be locked: {exc}.") from exc
        try:
            yield
        finally:
            portalocker.unlock(file)
