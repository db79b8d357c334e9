"""The sides of a choice that is made by values and bounds: below the first bound, between two, above the last."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def intervals(bounds: Sequence[float]) -> list[tuple[float, float]]:
    """Return the interval of every side, in the order of the values."""
    return list(itertools.pairwise((-math.inf, *bounds, math.inf)))


def taken(bounds: Sequence[float], low: float, high: float) -> set[int]:
    """Return the sides that values from ``low`` to ``high`` take; none if ``low`` is greater, as without values."""
    if not low <= high:
        return set()
    return {index for index, (lower, upper) in enumerate(intervals(bounds)) if low < upper and high > lower}
