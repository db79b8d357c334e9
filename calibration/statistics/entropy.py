"""Minimum Kullback-Leibler divergence between the histogram and its quantized version.

After S. Migacz, "8-bit Inference with TensorRT", GTC 2017: values outside the range are added to the ends of the
reference distribution and are missing from the quantized one, which spreads the mass of each level evenly over the bins
in use. The bin of zero is left out, as in that talk, since zero is exact in both.
"""

from __future__ import annotations

import numpy as np

from calibration.grid import Grid, Range
from calibration.histogram import Histogram
from calibration.range_search import best_range

_MIN_PROBABILITY = 1e-9
"""Probability of values that the quantized version cannot represent; keeps the divergence finite."""


def choose(histogram: Histogram, grid: Grid) -> Range:
    """Return the range with the minimum divergence."""
    edges, counts = histogram.used()
    nonzero = edges != 0.0
    middles, weights = edges[nonzero] + histogram.width / 2, counts[nonzero].astype(np.float64)
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
        p, q = reference / below[-1], np.maximum(coarse / coarse.sum(), _MIN_PROBABILITY)
        return float(p @ np.log(p / q))

    return best_range(histogram, grid, cost)
