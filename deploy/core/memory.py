"""The memory limit of a process that reads or runs a file of others."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.core.errors import BackendMemoryError, DeployError
from deploy.core.limits import how_to_raise, limits
from deploy.core.regular import entries, file_size

_PER_BYTE = 8
"""Bytes of memory allowed for each byte of the file: a runtime parses, optimizes and packs its weights."""
_REFUSED = re.compile(r"alloc|MemoryError|out of memory", re.IGNORECASE)
"""What runtimes say where the system refuses memory."""


def limit_memory(path: Path, share: float = 1.0) -> None:
    """Limit the memory of this process to what the file of a model needs, or to less: ``share`` of the fixed part.

    External data counts if its name starts like the name of the file, as ``net.onnx.data`` does.

    Private memory is limited (``RLIMIT_DATA``), not the address space, of which GPU drivers reserve much. There is no
    limit on systems other than Linux, whose kernels do not enforce it.
    """
    if sys.platform != "linux":
        return
    import resource

    size = sum(file_size(item.resolve()) or 0 for item in entries(path.parent) if item.name.startswith(path.stem))
    allowed = int(share * limits().onnx_memory_bytes) + _PER_BYTE * size
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        allowed = min(allowed, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def available_bytes() -> int | None:
    """Return the memory that this process can still take, within its control group; None where it is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:  # the process's own group is mounted there in a container
        cached = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        most, current = ((group / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return min(found, int(most) - int(current) + int(cached["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no control group, or no limit: "max"
        return found


@contextmanager
def memory_explained() -> Iterator[None]:
    """Name the memory limit in the error of a runtime that was refused memory."""
    try:
        yield
    except DeployError as exc:
        if not _REFUSED.search(exc.message):
            raise
        raise BackendMemoryError(exc.message, how_to_raise("onnx_memory_bytes")) from exc


@contextmanager
def memory_limited(path: Path) -> Iterator[None]:
    """Limit the memory of this process as `limit_memory` does, within this context."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_memory(path)
    try:
        with memory_explained():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
