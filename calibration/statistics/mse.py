"""The least mean squared error of rounding and cutting off together."""

from __future__ import annotations

import numpy as np

from calibration.grid import Grid, Range
from calibration.histogram import Histogram
from calibration.range_search import best_range


def choose(histogram: Histogram, grid: Grid) -> Range:
    """The range whose mean squared error over the histogram is least; a bin counts as its middle."""
    edges, counts = histogram.used()
    middles, weights = edges + histogram.width / 2, counts.astype(np.float64)
    zero = edges == 0.0
    middles[zero] = 0.0  # the bin of exact zeros, of which a ReLU leaves many

    def cost(span: Range) -> float:
        error = grid.round(middles, span) - middles
        return float(weights @ (error * error))

    return best_range(histogram, grid, cost)
