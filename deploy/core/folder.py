"""A folder that is written aside and takes its place in one step."""

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
from deploy.core.store import SCRATCH, clear, flush, flush_directory, storage_errors

_EXCHANGE = 2
_HERE = -100


@contextmanager
def replaced(place: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``place`` when the block ends well; a folder that was there goes.

    Where the system can exchange two folders (Linux), nobody ever sees none; elsewhere there is none between two
    renames.

    Raises:
        StorageError: the disk refused; what was there is there still.
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
            _take_place(fresh, place)
            flush_directory(place.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _take_place(fresh: Path, place: Path) -> None:
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
    """Exchange two folders at once; False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):  # another C library, an old kernel, a file system without it
        call = ctypes.CDLL(None, use_errno=True).renameat2
        return bool(call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)
    return False
