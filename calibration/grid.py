"""The integer grid to which a target rounds activations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Range = tuple[float, float]
"""Lower and upper end; zero lies between them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Eight-bit integers, evenly spaced over a range that contains zero.

    Attributes:
        symmetric: integers from -127 to 127 around zero; False: 0 to 255 with any zero-point.
    """

    symmetric: bool

    @property
    def name(self) -> str:
        """``symmetric`` or ``asymmetric``."""
        return "symmetric" if self.symmetric else "asymmetric"

    @property
    def steps(self) -> int:
        """Number of steps between the ends of the range."""
        return 254 if self.symmetric else 255

    def around(self, low: float, high: float) -> Range:
        """Return the smallest range of this grid that contains ``low``, ``high`` and zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if self.symmetric:
            largest = max(-low, high)
            return -largest, largest
        return low, high

    def round(self, values: Array, span: Range) -> Array:
        """Quantize and dequantize float64 values; those outside the range saturate at its ends."""
        step = (span[1] - span[0]) / self.steps
        zero = 0.0 if self.symmetric else np.rint(-span[0] / step)
        first = -127.0 if self.symmetric else 0.0
        return (np.clip(np.rint(values / step) + zero, first, first + self.steps) - zero) * step
