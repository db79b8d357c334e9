"""The smallest and the largest value: nothing is cut off, and one outlier coarsens everything."""

from __future__ import annotations

from calibration.grid import Grid, Range
from calibration.histogram import Histogram


def choose(histogram: Histogram, grid: Grid) -> Range:
    """The range of all values."""
    return grid.around(histogram.low, histogram.high)
