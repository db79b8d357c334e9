"""Requests that come when they please: Poisson arrivals, timed from the moment each was due.

The loop is open: a request that is late does not hold the next one back, it waits in the queue as it would in front of
a server, and its waiting counts. (A loop that sends the next request when the last is answered leaves out just the
waiting that a slow answer causes; Gil Tene calls that coordinated omission.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bench import clock
from deploy.core.errors import UsageError
from deploy.core.runner import Runner

REQUESTS = 1000
"""The fewest requests of a trial, so that its 99th percentile may be told."""

SATURATION_S = 0.5
STEPS = 6
"""Halvings of the range in which the highest rate is sought."""

SPIN_NS = 300_000
"""The last part of a wait is spent awake: sleep ends late by as much."""

Trial = tuple[dict[str, Any], NDArray[np.int64]]


def run(
    runner: Runner, *, time_s: float, rate: float | None = None, p99_ms: float | None = None, seed: int = 0
) -> Trial:
    """Serve requests.

    Args:
        runner: with its inputs bound; a request is one run of it.
        time_s: seconds of a trial; it is longer where fewer than `REQUESTS` would come.
        rate: requests a second; None for half of what it can do.
        p99_ms: find the highest rate whose 99th percentile stays below this; then ``rate`` must be None.
        seed: of the arrivals.

    Returns:
        What was found (rates in requests a second), and nanoseconds from due to done, in the order of arrival.

    Raises:
        UsageError: both a rate and a bound are given, or one is not positive.
    """
    if (rate is not None and p99_ms is not None) or any(item is not None and item <= 0 for item in (rate, p99_ms)):
        raise UsageError("a scenario 'server' takes a rate or a bound on p99, positive, not both.")
    most = 1e9 / float(np.mean(clock.sample(runner, int(SATURATION_S * 1e9))))
    if p99_ms is None:
        details, samples = trial(runner, rate or most / 2, time_s, seed)
        return {**details, "saturation_per_s": most, "trials": [_told(details)]}, samples
    return _search(runner, most, p99_ms * 1e6, time_s, seed)


def _search(runner: Runner, most: float, bound_ns: float, time_s: float, seed: int) -> Trial:
    """The highest rate that holds the bound; arrivals are the same but for their scale: trials can be compared."""
    low, high = 0.0, most
    held: Trial | None = None
    trials = []
    for _ in range(STEPS):
        middle = (low + high) / 2
        details, samples = trial(runner, middle, time_s, seed)
        trials.append(_told(details))
        if details["p99_ns"] <= bound_ns:
            low, held = middle, (details, samples)
        else:
            high = middle
    if held is None:
        return {"saturation_per_s": most, "trials": trials, "rate_per_s": 0.0, "bound_held": False}, samples
    return {**held[0], "saturation_per_s": most, "trials": trials, "bound_held": True}, held[1]


def _told(details: dict[str, Any]) -> dict[str, float]:
    return {name: details[name] for name in ("rate_per_s", "achieved_per_s", "p99_ns")}


def trial(runner: Runner, rate: float, time_s: float, seed: int) -> Trial:
    """Serve at one rate."""
    count = max(REQUESTS, int(rate * time_s))
    due = np.cumsum(np.random.default_rng(seed).exponential(1e9 / rate, count)).astype(np.int64)
    begun, done = serve(runner, due, time.perf_counter_ns, _wait_until)
    samples = done - due
    waiting = np.searchsorted(due, begun, side="right") - np.arange(1, count + 1)
    details = {
        "rate_per_s": rate,
        "achieved_per_s": count / (float(done[-1]) / 1e9),
        "requests": count,
        "late": float(np.mean(begun - due > SPIN_NS)),
        "queue_most": int(waiting.max()),
        "p99_ns": float(np.quantile(samples, 0.99)),
    }
    return details, samples


def serve(
    runner: Runner, due: NDArray[np.int64], now: Callable[[], int], wait_until: Callable[[int], None]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Run one request after the other, none before it is due.

    Args:
        runner: with its inputs bound.
        due: nanoseconds after the beginning, ascending.
        now: the clock, in nanoseconds.
        wait_until: returns when the clock has reached a value.

    Returns:
        When each was begun and when it was done, in nanoseconds after the beginning.
    """
    begun, done = np.empty_like(due), np.empty_like(due)
    start = now()
    for index, at in enumerate(due.tolist()):
        if now() - start < at:
            wait_until(start + at)
        begun[index] = now() - start
        runner.launch()
        runner.synchronize()
        done[index] = now() - start
    return begun, done


def _wait_until(at: int) -> None:
    left = at - time.perf_counter_ns()
    if left > SPIN_NS:
        time.sleep((left - SPIN_NS) / 1e9)
    while time.perf_counter_ns() < at:
        pass
