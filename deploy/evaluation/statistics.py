"""Statistics of correct and wrong predictions."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(hits: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson, JASA 22, 1927, p. 209); (0, 1) without trials."""
    if total == 0:
        return 0.0, 1.0
    share, extra = hits / total, z * z / total
    center = share + extra / 2
    half = z * math.sqrt(share * (1 - share) / total + extra / (4 * total))
    low, high = (center - half) / (1 + extra), (center + half) / (1 + extra)
    # exactly 0 or 1 here; the formula would leave 1e-17 from rounding
    return (0.0 if hits == 0 else low), (1.0 if hits == total else high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (Psychometrika 12, 1947).

    The null hypothesis is that two classifiers are correct equally often. The images that only one of them classifies
    correctly are then distributed like tosses of a fair coin. The value is twice the smaller tail of that binomial
    distribution, at most 1, computed in integers.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    term = tail = 1
    for successes in range(1, fewer + 1):
        term = term * (total - successes + 1) // successes
        tail += term
    return min(1.0, 2 * tail / 2**total) if total else 1.0


def paired_difference(only_first: int, only_second: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Return the interval of the second classifier's accuracy minus the first's, on the same images.

    Wald's interval with half a case added to each cell (Agresti and Min, Statistics in Medicine 24, 2005, p. 729).
    """
    first, second, count = only_first + 0.5, only_second + 0.5, total + 2
    center = (second - first) / count
    half = z * math.sqrt(first + second - (second - first) ** 2 / count) / count
    return max(-1.0, center - half), min(1.0, center + half)
