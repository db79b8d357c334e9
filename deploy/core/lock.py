"""One writer per folder at a time; the system frees the lock of a process that died."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.core.errors import StorageError
from deploy.core.names import LOCK
from deploy.core.regular import is_file, open_file


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process writes to a folder, and keep other writers out.

    Raises:
        StorageError: the lock file is not a regular file, or cannot be locked.
    """
    with _lock(folder / LOCK, shared=False):
        yield


@contextmanager
def unwritten(folder: Path) -> Iterator[bool]:
    """Wait until no process writes to a folder, and keep writers out; nothing is created or changed.

    Yields:
        Whether writers are kept out: not where the folder has no lock file, or one that this user may not open.

    Raises:
        StorageError: the lock file is not a regular file, or cannot be locked.
    """
    path = folder / LOCK
    if not os.path.lexists(path) or not (path.is_symlink() or os.access(path, os.R_OK)):
        yield False
        return
    with _lock(path, shared=True):
        yield True


@contextmanager
def _lock(path: Path, *, shared: bool) -> Iterator[None]:
    import portalocker  # here, since its import takes time and most commands lock nothing

    try:
        handle = open_file(path, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT)
    except OSError as exc:
        hint = None if is_file(path) or not os.path.lexists(path) else f"remove {path}"
        raise StorageError(f"{path}: cannot be opened as a lock file: {exc.strerror or exc}.", hint) from exc
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
