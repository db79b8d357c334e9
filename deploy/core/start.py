"""When this process began: the first module that the command line imports."""

from __future__ import annotations

import time

BEGAN = time.perf_counter()


def since_start() -> float:
    """Return the seconds since the process began, imports included."""
    return time.perf_counter() - BEGAN
