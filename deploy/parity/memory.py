"""The memory that runs of a model take: measured, and extrapolated to calls that have not been made."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.core.limits import limits
from deploy.core.memory import available_bytes

POLL_S = 0.005
"""Time between two measurements of memory."""

LEAST_BYTES = 1 << 16
"""Growth that a run has at least: less, or for less than `POLL_S`, is not seen."""

AVAILABLE_SHARE = 0.5
"""Share of the available memory that a run may take: PyTorch's own run and the candidate need as much again."""


class RunMemory:
    """Measures the memory of runs and says which larger runs would exceed the limit.

    The estimate is the memory of the largest run so far, times the ratio of the input values. Runs that are not larger
    than that one are always allowed.

    Attributes:
        limit: bytes that a run may take: ``probe_memory_bytes``, or half of the available memory if that is less.
    """

    def __init__(self) -> None:
        available = available_bytes()
        most = limits().probe_memory_bytes
        self.limit = most if available is None else min(most, int(AVAILABLE_SHARE * available))
        self._bytes = self._values = 0

    @contextmanager
    def measured(self, values: int) -> Iterator[None]:
        """Measure a run with so many input values."""
        with _Peak() as peak:
            yield
        # freed memory that is used again does not show as growth, and memory may grow faster than the values
        if values > self._values or peak.bytes > self._bytes:
            self._bytes, self._values = max(peak.bytes, self._bytes, LEAST_BYTES), values

    def needed(self, values: int) -> int:
        """Return an estimate of the bytes that a run takes; 0 where nothing is known."""
        return self._bytes * values // self._values if self._values else 0

    def allows(self, values: int, factor: float = 1.0) -> bool:
        """Return whether a run that takes ``factor`` times the estimate is within the limit."""
        return values <= self._values or factor * self.needed(values) <= self.limit


class _Peak:
    """The growth of this process's memory within a context, sampled by a thread; 0 where it is not known."""

    def __init__(self) -> None:
        self.bytes = 0
        self._before = _resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(POLL_S):
            self.bytes = max(self.bytes, _resident_bytes() - self._before)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
