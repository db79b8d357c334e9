"""Three standard deviations around the mean, which some hardware vendors' tools use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from calibration.grid import Grid, Range
    from calibration.histogram import Histogram

SIGMAS = 3.0


def choose(histogram: Histogram, grid: Grid) -> Range:
    """Return the INT8 range of a tensor; it contains zero and lies within the minimum and maximum of the values."""
    edges, counts = histogram.used()
    if not len(edges):
        return 0.0, 0.0
    middles = edges + histogram.width / 2
    mean = float(np.average(middles, weights=counts))
    spread = SIGMAS * float(np.sqrt(np.average((middles - mean) ** 2, weights=counts)))
    return grid.around(max(mean - spread, histogram.low), min(mean + spread, histogram.high))
