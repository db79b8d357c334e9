"""The only clock: how long a bound runner takes, call by call."""

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
"""Warm-up is over when the medians of two windows in a row differ by less than this share."""

WINDOW_NS = 100_000_000
WINDOW_CALLS = 5
"""A window of the warm-up: at least so long, and at least so many calls."""

LEAST = 5
"""Calls that are timed however long they take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmth:
    """How the warm-up went.

    Attributes:
        calls: that were made.
        spent_ns: in all.
        settled: whether the last two windows agreed before the time was up.
    """

    calls: int
    spent_ns: int
    settled: bool


def warm_up(runner: Runner, most_ns: int, window_ns: int = WINDOW_NS) -> Warmth:
    """Run until two windows agree within `AGREE`, or the time is up; two windows are always run.

    Args:
        runner: with its inputs bound.
        most_ns: nanoseconds after which no further window is begun.
        window_ns: length of a window.
    """
    began, calls = perf_counter_ns(), 0
    before = settled = None
    while True:
        window = sample(runner, window_ns, least=WINDOW_CALLS)
        calls += len(window)
        median = float(np.median(window))
        settled = before is not None and abs(median - before) <= AGREE * before
        spent = perf_counter_ns() - began
        if settled or (before is not None and spent >= most_ns):
            return Warmth(calls=calls, spent_ns=spent, settled=bool(settled))
        before = median


def sample(runner: Runner, time_ns: int, least: int = LEAST, most: int = 1_000_000) -> NDArray[np.int64]:
    """Time single calls, ``launch`` to the end of ``synchronize``, until the time is up.

    Args:
        runner: with its inputs bound.
        time_ns: nanoseconds to fill.
        least: calls that are made even if they take longer.
        most: calls after which it stops early.

    Returns:
        Nanoseconds of every call, in order.
    """
    launch, synchronize, clock = runner.launch, runner.synchronize, perf_counter_ns
    found: list[int] = []
    keep = found.append
    with _undisturbed():
        end = clock() + time_ns
        for _ in range(most):
            before = clock()
            launch()
            synchronize()
            after = clock()
            keep(after - before)
            if after >= end and len(found) >= least:
                break
    return np.array(found, np.int64)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without the garbage collector of Python, which would run within some call or other."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
