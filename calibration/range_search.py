"""Statistics that try ranges and keep the one of the lowest cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calibration.grid import Array, Grid, Range
from calibration.histogram import Histogram

SMALLEST = 0.05
"""Share of the full range that is tried at the least."""

_TRIED = 25
_FINER = 4

Cost = Callable[[Range], float]
Ends = tuple[bool, bool]


def best_range(histogram: Histogram, grid: Grid, cost: Cost) -> Range:
    """Shrink the full range where that costs less.

    A symmetric range, and one with a single end, is shrunk as a whole. The two ends of another are shrunk together
    and then each alone, and from the start each alone, for an outlier sits at one end; the cheaper result is taken.
    """
    full = grid.around(histogram.low, histogram.high)
    if full[0] == full[1]:
        return full
    together = _shrink(full, full, (True, True), cost)
    if grid.symmetric or 0.0 in full:
        return together
    found = []
    for start in (together, full):
        span = start
        for ends in ((False, True), (True, False)):
            span = _shrink(span, full, ends, cost)
        found.append(span)
    return min(found, key=cost)


def _shrink(span: Range, full: Range, ends: Ends, cost: Cost) -> Range:
    """The cheapest share of the full range at the given ends, tried coarsely and then finely about the best."""

    def at(share: float) -> Range:
        low, high = (share * most if moves else kept for kept, most, moves in zip(span, full, ends, strict=True))
        return low, high

    def cheapest(shares: Array) -> float:
        return float(shares[int(np.argmin([cost(at(float(share))) for share in shares]))])

    coarse = np.geomspace(1.0, SMALLEST, _TRIED)
    ratio = coarse[1] / coarse[0]
    fine = cheapest(coarse) * np.geomspace(1.0 / ratio, ratio, 2 * _FINER + 1)
    return at(cheapest(np.unique(np.minimum(fine, 1.0))[::-1]))
