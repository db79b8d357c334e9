"""The clock: time single calls of a runner with bound inputs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from deploy.core.runner import Runner

AGREE = 0.01
"""The warm-up ends when the medians of two consecutive windows differ by less than this share."""

WINDOW_NS = 100_000_000
WINDOW_CALLS = 5
"""Minimum duration and number of calls of a warm-up window."""

MIN_CALLS = 5
"""Minimum number of timed calls, however long they take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp:
    """Number of calls of a warm-up, its total duration, and whether its last two windows agreed."""

    calls: int
    spent_ns: int
    settled: bool


def warm_up(runner: Runner, max_ns: int, window_ns: int = WINDOW_NS) -> WarmUp:
    """Run until two windows agree within `AGREE`; at least two windows run, and none starts after ``max_ns``."""
    began, calls = perf_counter_ns(), 0
    before = settled = None
    while True:
        window = sample(runner, window_ns, min_calls=WINDOW_CALLS)
        calls += len(window)
        median = float(np.median(window))
        settled = before is not None and abs(median - before) <= AGREE * before
        spent = perf_counter_ns() - began
        if settled or (before is not None and spent >= max_ns):
            return WarmUp(calls=calls, spent_ns=spent, settled=bool(settled))
        before = median


def sample(runner: Runner, time_ns: int, min_calls: int = MIN_CALLS, max_calls: int = 1_000_000) -> NDArray[np.int64]:
    """Time single calls, from ``launch`` to the end of ``synchronize``, for ``time_ns`` and at least ``min_calls``.

    Returns:
        Nanoseconds of every call, in order.
    """
    launch, synchronize, clock = runner.launch, runner.synchronize, perf_counter_ns
    found: list[int] = []
    keep = found.append
    with _undisturbed():
        end = clock() + time_ns
        for _ in range(max_calls):
            before = clock()
            launch()
            synchronize()
            after = clock()
            keep(after - before)
            if after >= end and len(found) >= min_calls:
                break
    return np.array(found, np.int64)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Disable Python's garbage collector, which would run during some calls."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
