"""A histogram of a stream of values whose range is not known in advance.

The width of a bin is a power of two, and bins are aligned at zero. When a value falls outside, the width doubles and
neighboring bins are merged. Scaling by a power of two and rounding down are exact in floating point, so the counts
equal those of a histogram over all values at once, whatever the order and the batches.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

Values = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]

SIDE = 4096
"""Bins on each side of zero; the largest magnitude falls into the outer half of one side."""

_MIN_EXPONENT = -126
"""Smallest binary logarithm of a width; its inverse is still a float32."""

_CHUNK = 1 << 15
"""Values that are counted at a time, so that they fit into the CPU's cache."""


class Histogram:
    """Counts of finite values, in 2 * `SIDE` counters.

    Attributes:
        counts: int64, shape (2 * SIDE,); bin ``i`` counts values in ``[i - SIDE, i - SIDE + 1) * width``.
        exponent: binary logarithm of the width of a bin.
        low, high: smallest and largest value; 0 if the histogram is empty.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(2 * SIDE, np.int64)
        self.exponent = _MIN_EXPONENT
        self.low = self.high = 0.0
        self.total = 0

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    def add(self, values: Values, ends: tuple[float, float] | None = None) -> None:
        """Count values; ``ends`` are their minimum and maximum (NaN if one is NaN), if already known.

        Raises:
            ValueError: a value is not finite; the message is what it is, "NaN" or "an infinite value".
        """
        flat = values.reshape(-1)
        if not flat.size:
            return
        low, high = ends or (float(flat.min()), float(flat.max()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("NaN" if math.isnan(low) or math.isnan(high) else "an infinite value")
        self.low = low if not self.total else min(self.low, low)
        self.high = high if not self.total else max(self.high, high)
        self._widen(max(abs(low), abs(high)))
        inverse, signed = np.float32(math.ldexp(1.0, -self.exponent)), low < 0
        for start in range(0, flat.size, _CHUNK):
            self._count(flat[start : start + _CHUNK], inverse, signed)
        self.total += flat.size

    def _count(self, chunk: Values, inverse: np.float32, signed: bool) -> None:
        scaled = np.multiply(chunk, inverse, dtype=np.float32)
        if signed:
            np.floor(scaled, out=scaled)
            self.counts += np.bincount((scaled + np.float32(SIDE)).astype(np.intp), minlength=2 * SIDE)
        else:
            self.counts[SIDE:] += np.bincount(scaled.astype(np.intp), minlength=SIDE)

    def _widen(self, largest: float) -> None:
        """Double the width until the largest magnitude falls into a bin."""
        if largest == 0.0:
            return
        needed = max(math.frexp(largest)[1] - int(math.log2(SIDE)), _MIN_EXPONENT)
        steps = needed - self.exponent
        if steps <= 0:
            return
        self.exponent = needed
        if not self.counts.any():
            return
        for _ in range(min(steps, int(math.log2(SIDE)) + 1)):  # merge neighboring bins, aligned at zero
            merged = self.counts.reshape(SIDE, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[SIDE // 2 : SIDE // 2 + SIDE] = merged

    def used(self) -> tuple[NDArray[np.float64], Counts]:
        """Return lower edges (float64) and counts (int64) of the bins that are not empty, both of shape (bins,)."""
        index = np.flatnonzero(self.counts)
        return (index - SIDE).astype(np.float64) * self.width, self.counts[index]

    def copy(self) -> Self:
        """Return an independent copy."""
        return copy.deepcopy(self)
