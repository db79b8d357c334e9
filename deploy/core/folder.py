"""Replace a whole folder in one step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.core import interrupt
from deploy.core.names import SCRATCH
from deploy.core.store import clear, flush, flush_directory, storage_errors

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextmanager
def replaced(place: Path) -> Iterator[Path]:
    """Yield a scratch folder that replaces ``place`` if the block ends without an error.

    On Linux the two folders are exchanged, so that ``place`` always exists. Elsewhere it is missing for a moment
    between two renames.

    Raises:
        StorageError: the folder could not be written; the earlier one is still there.
    """
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        clear(place.parent)
        scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir=place.parent))
    try:
        fresh = scratch / place.name
        fresh.mkdir()
        yield fresh
        interrupt.check()
        with storage_errors(place):
            for folder, _, names in os.walk(fresh):
                for name in names:
                    flush(Path(folder) / name)
                flush_directory(Path(folder))
            _replace(place, fresh)
            flush_directory(place.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(place: Path, fresh: Path) -> None:
    if not place.exists():
        os.rename(fresh, place)
        return
    if _exchange(fresh, place):
        return
    before = fresh.with_name(f"before-{place.name}")
    os.rename(place, before)
    try:
        os.rename(fresh, place)
    except BaseException:
        os.rename(before, place)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders atomically; return False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):  # another C library, an old kernel or file system
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        result = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
        return bool(result == 0)
    return False
