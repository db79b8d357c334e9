"""Search for the range with the lowest cost, for statistics that define one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calibration.grid import Array, Grid, Range
from calibration.histogram import Histogram

MIN_SHARE = 0.05
"""Smallest range to try, as a share of the full range."""

_COARSE_STEPS = 25
_FINE_STEPS = 4

Cost = Callable[[Range], float]
Ends = tuple[bool, bool]


def best_range(histogram: Histogram, grid: Grid, cost: Cost) -> Range:
    """Return the range with the lowest cost within the range of all values.

    A symmetric range and a range that ends at zero are shrunk as a whole. Otherwise both ends are shrunk together and
    then one at a time, and, since outliers may lie at one end only, also one at a time from the full range; the cheaper
    result is returned.
    """
    full = grid.around(histogram.low, histogram.high)
    if full[0] == full[1]:
        return full
    together = _shrink(full, full, (True, True), cost)
    if grid.symmetric or 0.0 in full:
        return together
    candidates = []
    for span in (together, full):
        for ends in ((False, True), (True, False)):
            span = _shrink(span, full, ends, cost)
        candidates.append(span)
    return min(candidates, key=cost)


def _shrink(span: Range, full: Range, ends: Ends, cost: Cost) -> Range:
    """Replace the chosen ends by the cheapest share of the full range, found by a coarse and then a fine search."""

    def at(share: float) -> Range:
        low, high = (share * widest if moves else end for end, widest, moves in zip(span, full, ends, strict=True))
        return low, high

    def cheapest(shares: Array) -> float:
        return float(shares[int(np.argmin([cost(at(float(share))) for share in shares]))])

    coarse = np.geomspace(1.0, MIN_SHARE, _COARSE_STEPS)
    ratio = coarse[1] / coarse[0]
    fine = cheapest(coarse) * np.geomspace(1.0 / ratio, ratio, 2 * _FINE_STEPS + 1)
    return at(cheapest(np.unique(np.minimum(fine, 1.0))[::-1]))
