"""Statistics that try ranges and keep the one of the lowest cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from calibration._grid import Array, Grid, Range
from calibration._histogram import Histogram

SMALLEST = 0.05
"""Share of the full range that is tried at the least."""

_TRIED = 48
_FINER = 8

Cost = Callable[[Range], float]


def best_range(histogram: Histogram, grid: Grid, cost: Cost) -> Range:
    """Shrink the full range, coarsely over all shares and then finely about the best; the wider of equals wins."""
    full = grid.around(histogram.low, histogram.high)
    if full[0] == full[1]:
        return full
    coarse = np.geomspace(1.0, SMALLEST, _TRIED)
    best = _least(full, coarse, cost)
    ratio = coarse[1] / coarse[0]
    fine = best * np.geomspace(1.0 / ratio, ratio, 2 * _FINER + 1)
    share = _least(full, np.unique(np.minimum(fine, 1.0))[::-1], cost)
    return full[0] * share, full[1] * share


def _least(full: Range, shares: Array, cost: Cost) -> float:
    costs = [cost((full[0] * share, full[1] * share)) for share in shares]
    return float(shares[int(np.argmin(costs))])
