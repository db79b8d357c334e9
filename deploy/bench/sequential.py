"""Sequential comparison of two latencies: it stops as soon as it is decided.

Looking repeatedly at an ordinary 95 % interval reports a false difference far more often than 5 % of the time. Here the
looks are few and fixed in advance, and the interval at each look is wide enough for all looks together (repeated
confidence intervals: Jennison and Turnbull, Journal of the Royal Statistical Society B 51, 1989, p. 305, with Pocock's
constant boundary, Biometrika 64, 1977, p. 191). It is therefore valid at whichever look the comparison stops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

from deploy.bench.statistics import Interval, geometric

LOOKS = (5, 8, 12, 18)
"""Numbers of process pairs at which the interval is evaluated."""

NOMINAL = 0.005
"""Error rate of the interval at one look. Over all four looks, 1.5 % of comparisons of equals report a difference; with
an ordinary interval after every pair it is 17.7 % (simulated: ``benchmarks.harness``)."""

Verdict = Literal["faster", "slower", "no difference", "cannot tell"]


def interval_at(ratios: Sequence[float]) -> Interval:
    """Return the ratio of latencies with its interval at a look, from one ratio per pair of processes."""
    return geometric(ratios, 1 - NOMINAL)


def paired(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the ratio, second over first, of two processes that took turns: the median of the ratios per turn.

    Interference that lasts longer than a turn affects both processes; shorter interference affects few turns.
    """
    return math.exp(median(math.log(two / one) for one, two in zip(first, second, strict=True)))


def verdict_of(interval: Interval, margin: float) -> Verdict:
    """Return the verdict on the second of two; ``margin`` is the share below which a difference counts as none."""
    if interval.high <= 1.0 + margin and interval.low >= 1.0 / (1.0 + margin):
        return "no difference"
    if interval.low > 1.0:
        return "slower"
    return "faster" if interval.high < 1.0 else "cannot tell"


Guard = Literal["pass", "fail", "inconclusive"]


def guard(interval: Interval, allowed: float) -> Guard:
    """Tell whether the second of two is slower by more than a share (0.03 for 3 %).

    Returns:
        ``fail`` if the second is significantly slower and the estimate exceeds the bound; ``pass`` if the whole
        interval is below the bound; otherwise ``inconclusive``.
    """
    if interval.high < 1.0 + allowed:
        return "pass"
    return "fail" if interval.low > 1.0 and interval.value >= 1.0 + allowed else "inconclusive"
