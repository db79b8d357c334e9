"""The memory limit of a process that reads or runs a file of others."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.limits import how_to_raise, limits

_PER_BYTE = 8
"""Bytes of memory allowed for each byte of the file: a runtime parses, optimizes and packs its weights."""
_REFUSED = re.compile(r"alloc|MemoryError|out of memory", re.IGNORECASE)
"""What runtimes say where the system refuses memory."""


def limit_memory(path: Path) -> None:
    """Limit the memory of this process to what the file of a model needs.

    External data counts if its name starts like the name of the file, as ``net.onnx.data`` does.

    Private memory is limited (``RLIMIT_DATA``), not the address space, of which GPU drivers reserve much. There is no
    limit on systems other than Linux, whose kernels do not enforce it.
    """
    if sys.platform != "linux":
        return
    import resource

    files = [item for item in path.parent.iterdir() if item.name.startswith(path.stem) and item.is_file()]
    allowed = limits().onnx_memory_bytes + _PER_BYTE * sum(item.stat().st_size for item in files)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        allowed = min(allowed, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def explained(exc: BackendError) -> BackendError:
    """Return the error that names the memory limit, where an error of a runtime says that memory was refused."""
    if not _REFUSED.search(exc.message):
        return exc
    return BackendCrashedError(exc.message, how_to_raise("onnx_memory_bytes"))
