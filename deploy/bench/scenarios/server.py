"""Poisson arrivals; the latency of a request counts from the moment it was due.

The loop is open: a late request does not delay the arrival of the next one, it waits in the queue, and the waiting
counts. (A closed loop, which sends the next request after the last answer, leaves out the waiting that a slow answer
causes; Gil Tene calls this coordinated omission.)
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

MIN_REQUESTS = 1000
"""Minimum number of requests of a trial, so that its 99th percentile is meaningful."""

SATURATION_S = 0.5
STEPS = 6
"""Number of bisection steps in the search for the highest rate."""

SPIN_NS = 300_000
"""Last part of a wait, spent spinning, because sleep may end this late."""

Trial = tuple[dict[str, Any], NDArray[np.int64]]


def run(
    runner: Runner, *, time_s: float, rate: float | None = None, p99_ms: float | None = None, seed: int = 0
) -> Trial:
    """Serve requests.

    Args:
        runner: runner with bound inputs; a request is one run of it.
        time_s: seconds of a trial; longer if fewer than `MIN_REQUESTS` would arrive.
        rate: requests per second; None takes half of the maximum.
        p99_ms: find the highest rate whose 99th percentile stays below this; ``rate`` must then be None.
        seed: seed of the arrivals.

    Returns:
        Details (rates in requests per second), and nanoseconds from due to done in the order of arrival.
    """
    if (rate is not None and p99_ms is not None) or any(item is not None and item <= 0 for item in (rate, p99_ms)):
        raise UsageError("the scenario 'server' takes either a rate or a bound on p99, and it must be positive.")
    maximum = 1e9 / float(np.mean(clock.sample(runner, int(SATURATION_S * 1e9))))
    if p99_ms is None:
        details, samples = trial(runner, rate or maximum / 2, time_s, seed)
        return {**details, "saturation_per_s": maximum, "trials": [_summary(details)]}, samples
    return _search(runner, maximum, p99_ms * 1e6, time_s, seed)


def _search(runner: Runner, maximum: float, bound_ns: float, time_s: float, seed: int) -> Trial:
    """Bisect for the highest rate that keeps the bound; trials use the same arrivals, scaled."""
    low, high = 0.0, maximum
    kept: Trial | None = None
    trials = []
    for _ in range(STEPS):
        middle = (low + high) / 2
        details, samples = trial(runner, middle, time_s, seed)
        trials.append(_summary(details))
        if details["p99_ns"] <= bound_ns:
            low, kept = middle, (details, samples)
        else:
            high = middle
    if kept is None:
        return {"saturation_per_s": maximum, "trials": trials, "rate_per_s": 0.0, "bound_held": False}, samples
    return {**kept[0], "saturation_per_s": maximum, "trials": trials, "bound_held": True}, kept[1]


def _summary(details: dict[str, Any]) -> dict[str, float]:
    return {name: details[name] for name in ("rate_per_s", "achieved_per_s", "p99_ns")}


def trial(runner: Runner, rate: float, time_s: float, seed: int) -> Trial:
    """Serve at one rate, in requests per second."""
    count = max(MIN_REQUESTS, int(rate * time_s))
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
    """Run requests one after the other, none before it is due; ``wait_until`` returns when the clock reaches a value.

    All times are in nanoseconds, those of requests (when due, begun and done) after the start.
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
