"""The integers that a target rounds activations to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Eight bits, evenly spaced over a range that holds zero.

    Attributes:
        symmetric: -127 to 127 about zero; else 0 to 255 with zero at any of them.
    """

    symmetric: bool

    @property
    def name(self) -> str:
        """``symmetric`` or ``asymmetric``."""
        return "symmetric" if self.symmetric else "asymmetric"

    @property
    def steps(self) -> int:
        """How many steps there are between the ends of the range."""
        return 254 if self.symmetric else 255

    def around(self, low: float, high: float) -> Range:
        """The range of this grid that holds ``low``, ``high`` and zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        if self.symmetric:
            largest = max(-low, high)
            return -largest, largest
        return low, high

    def round(self, values: Array, span: Range) -> Array:
        """What eight bits make of ``values``: rounded to the grid over ``span``, saturated at its ends."""
        step = (span[1] - span[0]) / self.steps
        zero = 0.0 if self.symmetric else np.rint(-span[0] / step)
        least = -127.0 if self.symmetric else 0.0
        return (np.clip(np.rint(values / step) + zero, least, least + self.steps) - zero) * step
