"""The statistics of right and wrong answers."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(hits: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, JASA 22, 1927, p. 209); (0, 1) without a trial.

    Args:
        hits: successes.
        total: trials.
        z: quantile of the normal distribution; default for 95 %.
    """
    if total == 0:
        return 0.0, 1.0
    share, extra = hits / total, z * z / total
    center = share + extra / 2
    half = z * math.sqrt(share * (1 - share) / total + extra / (4 * total))
    low, high = (center - half) / (1 + extra), (center + half) / (1 + extra)
    # rounding alone would leave 1e-17 where the formula is exactly 0 or 1
    return (0.0 if hits == 0 else low), (1.0 if hits == total else high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that two classifiers are right equally often (McNemar, Psychometrika 12, 1947).

    Under that hypothesis the images that only one of them gets right fall to either like a fair coin; the
    value is twice the smaller tail of that binomial, at most 1, computed in integers.

    Args:
        only_first: images that only the first gets right.
        only_second: images that only the second gets right.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    term = tail = 1
    for successes in range(1, fewer + 1):
        term = term * (total - successes + 1) // successes
        tail += term
    return min(1.0, 2 * tail / 2**total) if total else 1.0


def paired_difference(only_first: int, only_second: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Interval of (share right of the second) - (share right of the first) on the same images.

    Wald's interval with half a case added to each cell (Agresti and Min, Statistics in Medicine 24, 2005,
    p. 729).

    Args:
        only_first: images that only the first gets right.
        only_second: images that only the second gets right.
        total: images.
        z: quantile of the normal distribution; default for 95 %.
    """
    first, second, count = only_first + 0.5, only_second + 0.5, total + 2
    center = (second - first) / count
    half = z * math.sqrt(first + second - (second - first) ** 2 / count) / count
    return max(-1.0, center - half), min(1.0, center + half)
