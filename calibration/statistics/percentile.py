"""Percentiles: one value in ten thousand may be clipped at each end."""

from __future__ import annotations

import numpy as np

from calibration.grid import Grid, Range
from calibration.histogram import Histogram

TAIL = 1e-4
"""Share of the values that may be clipped at each end."""


def choose(histogram: Histogram, grid: Grid) -> Range:
    """Return the range between the two percentiles, at the resolution of a bin, within minimum and maximum."""
    edges, counts = histogram.used()
    if not len(edges):
        return 0.0, 0.0
    below = np.cumsum(counts) / histogram.total
    first = int(np.searchsorted(below, TAIL, side="right"))
    last = min(int(np.searchsorted(below, 1 - TAIL)), len(edges) - 1)
    low, high = edges[first], edges[last] + histogram.width
    return grid.around(max(float(low), histogram.low), min(float(high), histogram.high))
