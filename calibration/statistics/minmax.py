"""Minimum and maximum: no value is clipped, and a single outlier makes every step coarser."""

from __future__ import annotations

from calibration.grid import Grid, Range
from calibration.histogram import Histogram


def choose(histogram: Histogram, grid: Grid) -> Range:
    """Return the range of all values."""
    return grid.around(histogram.low, histogram.high)
