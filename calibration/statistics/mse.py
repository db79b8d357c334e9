"""Minimum mean squared error of rounding and clipping."""

from __future__ import annotations

import numpy as np

from calibration.grid import Grid, Range
from calibration.histogram import Histogram
from calibration.range_search import best_range


def choose(histogram: Histogram, grid: Grid) -> Range:
    """Return the range with the minimum mean squared error; the values of a bin are taken as its middle."""
    edges, counts = histogram.used()
    middles, weights = edges + histogram.width / 2, counts.astype(np.float64)
    zero = edges == 0.0
    middles[zero] = 0.0  # mostly exact zeros, the output of ReLU

    def cost(span: Range) -> float:
        error = grid.round(middles, span) - middles
        return float(weights @ (error * error))

    return best_range(histogram, grid, cost)
