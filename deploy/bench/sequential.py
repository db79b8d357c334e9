"""A comparison that may be looked at while it runs, and stopped as soon as it is decided.

Looking again and again at an ordinary 95 % interval finds a difference that is not there far more often than 5 % of
the time. Here the looks are few and fixed beforehand, and the interval at each is wide enough for all of them together
(repeated confidence intervals: Jennison and Turnbull, Journal of the Royal Statistical Society B 51, 1989, p. 305, with
Pocock's constant boundary, Biometrika 64, 1977, p. 191): it may be read at whichever look the comparison ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

from deploy.bench.statistics import Interval, geometric

LOOKS = (5, 8, 12, 18)
"""Numbers of process pairs after which the comparison is looked at."""

NOMINAL = 0.005
"""Error of the interval at one look. Over all four looks together 1.5 % of comparisons of equals are called different;
looking at an ordinary interval after every pair, 17.7 % (simulated: ``benchmarks.harness``)."""

Verdict = Literal["faster", "slower", "no difference", "cannot tell"]


def interval_at(ratios: Sequence[float]) -> Interval:
    """How many times the second takes what the first takes, to be read at a look.

    Args:
        ratios: of the second's time over the first's, one for each pair of processes.
    """
    return geometric(ratios, 1 - NOMINAL)


def paired(first: Sequence[float], second: Sequence[float]) -> float:
    """The ratio of two processes that took turns: the median over turns of the ratio in a turn.

    What disturbs the machine for longer than a turn hits both of it, and what is shorter spoils one turn of many.

    Args:
        first: a time for each turn.
        second: of the other process, turn by turn.
    """
    return math.exp(median(math.log(two / one) for one, two in zip(first, second, strict=True)))


def verdict_of(interval: Interval, margin: float) -> Verdict:
    """What the interval of a ratio says of the second of two; what lies within the margin does not matter.

    Args:
        interval: of the second's time over the first's.
        margin: the share below which a difference does not matter, 0.02 for 2 %.
    """
    if interval.high <= 1.0 + margin and interval.low >= 1.0 / (1.0 + margin):
        return "no difference"
    if interval.low > 1.0:
        return "slower"
    return "faster" if interval.high < 1.0 else "cannot tell"


Guard = Literal["pass", "fail", "inconclusive"]


def guard(interval: Interval, allowed: float) -> Guard:
    """Whether the second of two is slower by more than is allowed.

    ``fail``: it is shown to be slower, and by its best estimate by more than that. ``pass``: the whole interval lies
    below it. ``inconclusive``: neither.

    Args:
        interval: of the second's time over the first's.
        allowed: share, 0.03 for 3 %.
    """
    if interval.high < 1.0 + allowed:
        return "pass"
    return "fail" if interval.low > 1.0 and interval.value >= 1.0 + allowed else "inconclusive"
