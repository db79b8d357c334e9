"""Regular files and real folders: symbolic links are not followed, and pipes, sockets and devices are not opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from deploy.core.limits import limits

_NEITHER_WAIT_NOR_FOLLOW = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file, not a link to one."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder, not a link to one."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except (OSError, ValueError):
        return 0


def open_file(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file, by ``os.open`` with some flags; return its descriptor.

    Raises:
        OSError: there is no file and the flags create none, or it is a link, a folder, a pipe, a socket or a device.
    """
    if (mode := _mode(path)) and not stat.S_ISREG(mode):  # opening some devices has an effect
        raise OSError(f"{path.name} is not a regular file")
    descriptor = os.open(path, flags | _NEITHER_WAIT_NOR_FOLLOW, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a regular file")
    return descriptor


def read_document(path: Path) -> str:
    """Return the text of a regular file in UTF-8.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
        ValueError: it is larger than the limit ``document_bytes``, or not UTF-8.
    """
    with os.fdopen(open_file(path), "rb") as file:
        content = file.read(limits().document_bytes + 1)
    if len(content) > limits().document_bytes:
        raise ValueError(f"larger than {limits().document_bytes} bytes (DEPLOY_LIMIT_DOCUMENT_BYTES)")
    return content.decode()
