"""A histogram of a stream of values whose range is not known in advance.

Bins have the width of a power of two and are aligned at zero. When a value falls outside, the width doubles and
neighboring bins are merged. Scaling by a power of two and rounding down are exact in floating point, so the counts are
those of a histogram made at once over all values: the order and the batches in which they came leave no trace.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

Values = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]

SIDE = 4096
"""Bins on each side of zero; more than half of those on the longer side are in use."""

_FINEST = -126
"""Least binary logarithm of a width: its inverse is still a float32."""

_CHUNK = 1 << 15
"""Values at a time: what fits into the processor's cache."""


class Histogram:
    """Counts of finite values; memory is that of `SIDE` counters on each side, whatever is added.

    Attributes:
        counts: int64 (2 * SIDE,); bin ``i`` holds values in ``[i - SIDE, i - SIDE + 1) * width``.
        exponent: binary logarithm of the width of a bin.
        low, high: smallest and largest value; both 0 before anything was added.
        total: how many values were added.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(2 * SIDE, np.int64)
        self.exponent = _FINEST
        self.low = self.high = 0.0
        self.total = 0

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    def add(self, values: Values, ends: tuple[float, float] | None = None) -> None:
        """Count more values, of any shape.

        Args:
            values: to count.
            ends: the smallest and the largest of them (NaN where one is), where they are known already.

        Raises:
            ValueError: one of them is not finite.
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
        """Double the width until the largest magnitude has a bin."""
        if largest == 0.0:
            return
        needed = max(math.frexp(largest)[1] - int(math.log2(SIDE)), _FINEST)
        steps = needed - self.exponent
        if steps <= 0:
            return
        self.exponent = needed
        if not self.counts.any():
            return
        for _ in range(min(steps, int(math.log2(SIDE)) + 1)):
            self._halve()

    def _halve(self) -> None:
        """Merge neighbors; bins keep their alignment at zero."""
        merged = self.counts.reshape(SIDE, 2).sum(axis=1)
        self.counts[:] = 0
        self.counts[SIDE // 2 : SIDE // 2 + SIDE] = merged

    def used(self) -> tuple[NDArray[np.float64], Counts]:
        """Lower edges of the bins that hold something, and their counts."""
        index = np.flatnonzero(self.counts)
        return (index - SIDE).astype(np.float64) * self.width, self.counts[index]

    def copy(self) -> Self:
        """The histogram as it is now."""
        twin = type(self)()
        twin.counts = self.counts.copy()
        twin.exponent, twin.low, twin.high = self.exponent, self.low, self.high
        twin.total = self.total
        return twin
