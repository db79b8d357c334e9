"""Three standard deviations about the mean, as some hardware tools do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from calibration.grid import Grid, Range
    from calibration.histogram import Histogram

SIGMAS = 3.0


def choose(histogram: Histogram, grid: Grid) -> Range:
    """The range that eight bits shall cover; it holds zero, and goes no further than the values seen."""
    edges, counts = histogram.used()
    if not len(edges):
        return 0.0, 0.0
    middles = edges + histogram.width / 2
    mean = float(np.average(middles, weights=counts))
    spread = SIGMAS * float(np.sqrt(np.average((middles - mean) ** 2, weights=counts)))
    return grid.around(max(mean - spread, histogram.low), min(mean + spread, histogram.high))
