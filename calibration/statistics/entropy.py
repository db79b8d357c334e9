"""The least loss of information: Kullback-Leibler divergence between the histogram and its eight-bit version.

After S. Migacz, "8-bit Inference with TensorRT", GTC 2017: what lies beyond the range is added to the reference
distribution's ends and is missing from the eight-bit one, whose levels spread their mass evenly over the bins in use.
The bin of zero is left out, as there: zero is exact in either.
"""

from __future__ import annotations

import numpy as np

from calibration.grid import Grid, Range
from calibration.histogram import Histogram
from calibration.range_search import best_range

_RARE = 1e-9
"""Probability given to what the eight-bit version cannot produce, so that the divergence stays finite."""


def choose(histogram: Histogram, grid: Grid) -> Range:
    """The range whose divergence is least."""
    edges, counts = histogram.used()
    kept = edges != 0.0
    middles, weights = edges[kept] + histogram.width / 2, counts[kept].astype(np.float64)
    if not len(middles):
        return grid.around(histogram.low, histogram.high)

    below = np.concatenate([[0.0], np.cumsum(weights)])

    def cost(span: Range) -> float:
        first, end = int(np.searchsorted(middles, span[0])), int(np.searchsorted(middles, span[1], "right"))
        if first == end:
            return float("inf")
        mass = weights[first:end]
        reference = mass.copy()
        reference[0] += below[first]
        reference[-1] += below[-1] - below[end]
        step = (span[1] - span[0]) / grid.steps
        level = np.rint((middles[first:end] - span[0]) / step).astype(np.intp)
        coarse = (np.bincount(level, weights=mass) / np.maximum(np.bincount(level), 1))[level]
        p, q = reference / below[-1], np.maximum(coarse / coarse.sum(), _RARE)
        return float(p @ np.log(p / q))

    return best_range(histogram, grid, cost)
