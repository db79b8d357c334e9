"""A comparison that may be looked at while it runs, and stopped as soon as it is decided.

Looking again and again at an ordinary 95 % interval finds a difference that is not there far more often than 5 % of
the time. Here the looks are few and fixed beforehand, and the interval at each is wide enough for all of them together
(repeated confidence intervals: Jennison and Turnbull, Journal of the Royal Statistical Society B 51, 1989, p. 305, with
Pocock's constant boundary, Biometrika 64, 1977, p. 191): it may be read at whichever look the comparison ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from deploy.bench.statistics import Interval, ratio

LOOKS = (5, 8, 12, 18)
"""Numbers of process pairs after which the comparison is looked at."""

NOMINAL = 0.005
"""Error of the interval at one look. Over all four looks together one comparison of equals in 63 is called different
(simulated by ``benchmarks/intervals.py``: 1.6 %)."""

Verdict = Literal["faster", "slower", "no difference", "cannot tell"]


def interval_at(first: Sequence[float], second: Sequence[float]) -> Interval:
    """How many times ``second`` takes what ``first`` takes, to be read at a look.

    Args:
        first: a time for each pair of processes.
        second: of the other process, pair by pair.
    """
    return ratio(first, second, 1 - NOMINAL)


def verdict_of(interval: Interval, margin: float) -> Verdict:
    """What the interval of a ratio says of the second of two.

    Args:
        interval: of the second's time over the first's.
        margin: the share below which a difference does not matter, 0.02 for 2 %.
    """
    if interval.low > 1.0:
        return "slower"
    if interval.high < 1.0:
        return "faster"
    if interval.high <= 1.0 + margin and interval.low >= 1.0 / (1.0 + margin):
        return "no difference"
    return "cannot tell"


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
