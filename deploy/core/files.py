"""Read files that others may have made: regular files only, and no more than a limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from deploy.core.limits import PREFIX, limits


def read_bytes(path: Path, limit: str) -> bytes:
    """Read a regular file of at most ``limit`` bytes, the name of a limit in `Limits`.

    A pipe or a device is refused at once, without waiting for data.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger than the limit.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as stream:
        state = os.fstat(stream.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        most: int = getattr(limits(), limit)
        if state.st_size > most:
            raise OSError(errno.EFBIG, f"{state.st_size:,} bytes exceed the limit {PREFIX}{limit.upper()}={most}")
        return stream.read(state.st_size)


def read_text(path: Path, limit: str = "document_bytes") -> str:
    """Read a text file in UTF-8 as `read_bytes` does.

    Raises:
        OSError: see `read_bytes`.
        UnicodeDecodeError: the file is not UTF-8.
    """
    return read_bytes(path, limit).decode("utf-8").replace("\r\n", "\n")
