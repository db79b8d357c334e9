"""Statistics of latencies: quantiles with enough samples, and confidence intervals over processes.

Samples of one process are not independent: they share its memory layout, clock frequency and competing load. Every
interval therefore takes the process as the unit: Student's t on the log medians of the processes. With five processes,
a 95 % bootstrap interval over processes covers the true value in only 84 % of cases (simulated:
``benchmarks.harness``; docs/timing.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Samples = Sequence[NDArray[np.int64]]
"""Nanoseconds of every call, one array per process."""

MIN_BEYOND = 10
"""A quantile is given only if this many samples are expected beyond it: p90 from 100, p95 from 200, p99 from 1000."""

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with its confidence interval; with a single process the interval is (0, infinity)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyStats:
    """Statistics of one cell over all its processes; times in nanoseconds.

    Attributes:
        median: geometric mean of the processes' medians, with its interval.
        mean: mean of all samples.
        quantiles: ``p90``, ``p95``, ``p99``; None with too few samples.
    """

    processes: int
    samples: int
    minimum: float
    median: Interval
    mean: float
    quantiles: dict[str, float | None]


def summarize(samples: Samples) -> LatencyStats:
    """Return the statistics of a cell that has samples."""
    every = np.concatenate([part for part in samples if len(part)])
    quantiles = {
        f"p{share}": float(np.quantile(every, share / 100)) if len(every) * (100 - share) >= 100 * MIN_BEYOND else None
        for share in (90, 95, 99)
    }
    return LatencyStats(
        processes=len(samples),
        samples=len(every),
        minimum=float(every.min()),
        median=geometric([float(np.median(part)) for part in samples if len(part)]),
        mean=float(every.mean()),
        quantiles=quantiles,
    )


def geometric(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the geometric mean of positive, independent values, with Student's t interval on the log scale."""
    logs = [math.log(value) for value in values]
    center = math.fsum(logs) / len(logs)
    if len(logs) < 2:
        return Interval(value=math.exp(center), low=0.0, high=math.inf)
    spread = math.sqrt(math.fsum((item - center) ** 2 for item in logs) / (len(logs) - 1))
    half = float(stdtrit(len(logs) - 1, (1 + level) / 2)) * spread / math.sqrt(len(logs))
    return Interval(value=math.exp(center), low=math.exp(center - half), high=_exp(center + half))


def _exp(value: float) -> float:
    """Return e to a power; infinity where it is too large for a float."""
    return math.exp(value) if value < 700.0 else math.inf


def ratio(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the ratio ``second / first`` from paired repetitions, one median each, in the same order."""
    return geometric([two / one for one, two in zip(first, second, strict=True)])


def unpaired_ratio(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the ratio ``second / first`` from unpaired repetitions, whose numbers may differ.

    Welch's t test on the log scale (Biometrika 34, 1947, p. 28). The interval is (0, infinity) if a side has one
    repetition.

    Raises:
        ValueError: a side is empty.
    """
    if not first or not second:
        raise ValueError("a side has no repetitions")
    sides = [[math.log(value) for value in side] for side in (first, second)]
    means = [math.fsum(side) / len(side) for side in sides]
    center = means[1] - means[0]
    if min(map(len, sides)) < 2:
        return Interval(value=math.exp(center), low=0.0, high=math.inf)
    parts = [
        math.fsum((item - mean) ** 2 for item in side) / (len(side) - 1) / len(side)
        for side, mean in zip(sides, means, strict=True)
    ]
    total = math.fsum(parts)
    if total == 0:
        return Interval(value=math.exp(center), low=math.exp(center), high=math.exp(center))
    freedom = total**2 / math.fsum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(total)
    return Interval(value=math.exp(center), low=math.exp(center - half), high=_exp(center + half))


def plain_interval(interval: Interval | None) -> dict[str, float | None] | None:
    """Return an interval as plain values for JSON; unknown ends are None."""
    if interval is None:
        return None
    known = interval.low > 0
    return {"value": interval.value, "low": interval.low if known else None, "high": interval.high if known else None}
