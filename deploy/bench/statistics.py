"""What may be said of latencies: quantiles where there are enough samples, and intervals that hold over processes.

Samples of one process are not independent: they share its memory layout, its clock, the neighbors of that minute. So
every interval here takes the process as the unit: Student's t on the processes' log medians. With five processes a
bootstrap over them holds in 84 % where it says 95 % (simulated: ``benchmarks.harness``; docs/timing.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Samples = Sequence[NDArray[np.int64]]
"""Nanoseconds of every call, an array a process."""

BEYOND = 10
"""A quantile is told only where so many samples are expected beyond it: p90 from 100, p95 from 200, p99 from 1000."""

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with the ends of its confidence interval; infinite ends where one process says nothing of others."""

    value: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the two have a value in common."""
        return self.low <= other.high and other.low <= self.high

    def scaled(self, factor: float) -> Interval:
        """In another unit."""
        return Interval(value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyStats:
    """Latencies of one cell over all its processes; times in nanoseconds.

    Attributes:
        median: the processes' medians together, with its interval.
        quantiles: ``p90``, ``p95``, ``p99``; None where there are too few samples.
        mean: of all samples.
    """

    processes: int
    samples: int
    minimum: float
    median: Interval
    mean: float
    quantiles: dict[str, float | None]


def summarize(samples: Samples) -> LatencyStats:
    """Statistics of a cell.

    Raises:
        ValueError: there is no sample.
    """
    every = np.concatenate([part for part in samples if len(part)])
    quantiles = {
        f"p{share}": float(np.quantile(every, share / 100)) if len(every) * (100 - share) >= 100 * BEYOND else None
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
    """The geometric mean of positive values with Student's interval of its logarithm.

    Args:
        values: independent repetitions.
        level: confidence.
    """
    logs = [math.log(value) for value in values]
    center = math.fsum(logs) / len(logs)
    if len(logs) < 2:
        return Interval(value=math.exp(center), low=0.0, high=math.inf)
    spread = math.sqrt(math.fsum((item - center) ** 2 for item in logs) / (len(logs) - 1))
    half = float(stdtrit(len(logs) - 1, (1 + level) / 2)) * spread / math.sqrt(len(logs))
    return Interval(value=math.exp(center), low=math.exp(center - half), high=math.exp(center + half))


def ratio(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """How many times ``second`` is ``first``, from repetitions that were taken side by side.

    Args:
        first: a median for each repetition.
        second: of the other, repetition by repetition.
        level: confidence.

    Raises:
        ValueError: they are not as many.
    """
    return geometric([two / one for one, two in zip(first, second, strict=True)], level)


def unpaired_ratio(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """How many times ``second`` is ``first``, from repetitions that were not taken side by side.

    Welch's t on logarithms (Biometrika 34, 1947, p. 28); infinite ends where a side has one repetition.

    Args:
        first: medians.
        second: of the other; need not be as many.
        level: confidence.

    Raises:
        ValueError: a side is empty.
    """
    if not first or not second:
        raise ValueError("a side has no repetition")
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
    return Interval(value=math.exp(center), low=math.exp(center - half), high=math.exp(center + half))
