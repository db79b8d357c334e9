"""Regular files and real folders, which others may have made.

Pipes, sockets and devices are not opened, and no more is read than a limit. Symbolic links are not followed, except
where a user names a file.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from deploy.core.limits import PREFIX, limits

_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file, not a link to one."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder, not a link to one."""
    return stat.S_ISDIR(_mode(path))


def file_size(path: Path) -> int | None:
    """Return the size of a regular file in bytes; None if there is none, perhaps since a moment ago."""
    status = _status(path)
    return status.st_size if status and stat.S_ISREG(status.st_mode) else None


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, by name; nothing if there is no such folder, perhaps since a moment ago.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _mode(path: Path) -> int:
    status = _status(path)
    return status.st_mode if status else 0


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (OSError, ValueError):
        return None


def open_file(path: Path, flags: int = os.O_RDONLY, *, follow: bool = False) -> int:
    """Open a regular file, by ``os.open`` with some flags; return its descriptor. ``follow`` allows a link to one.

    Raises:
        OSError: there is no file and the flags create none, or it is a link, a folder, a pipe, a socket or a device.
    """
    mode = _mode(path.resolve() if follow else path)
    if mode and not stat.S_ISREG(mode):  # opening some devices has an effect
        raise OSError(errno.EINVAL, "not a regular file")
    descriptor = os.open(path, flags | _NO_WAIT | (0 if follow else _NO_LINK), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def read_bytes(path: Path, limit: str, *, follow: bool = True) -> bytes:
    """Read a regular file of at most ``limit`` bytes, the name of a limit in `deploy.core.limits.Limits`.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than the limit.
    """
    most: int = getattr(limits(), limit)
    with os.fdopen(open_file(path, follow=follow), "rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {PREFIX}{limit.upper()}={most} bytes")
    return content


def read_text(path: Path, limit: str = "document_bytes", *, follow: bool = True) -> str:
    """Read a text file in UTF-8 as `read_bytes` does.

    Raises:
        OSError: see `read_bytes`.
        UnicodeDecodeError: the file is not UTF-8.
    """
    return read_bytes(path, limit, follow=follow).decode("utf-8").replace("\r\n", "\n")


def read_document(path: Path) -> str:
    """Read a document of the artifacts directory, which is not a link; see `read_text`."""
    return read_text(path, follow=False)
