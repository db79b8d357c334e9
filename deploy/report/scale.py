"""The scale of an axis: where values are drawn, and the numbers written on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Maps values from ``low`` to ``high`` to 0 … 1, by their logarithms if ``log``; values are positive then."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(
        cls, values: Sequence[float], *, log: bool = False, room: float = 0.05, before: float | None = None
    ) -> Scale:
        """Return a scale that shows all finite values.

        Args:
            values: the values.
            log: whether the scale is logarithmic; then values that are not positive are left out.
            room: free space after the largest value, as a share of the scale.
            before: the same before the smallest; None for ``room``.
        """
        shown = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(shown), max(shown)) if shown else (1.0, 10.0)
        first, last = (math.log10(low), math.log10(high)) if log else (low, high)
        if last - first < (0.3 if log else 1e-9 * max(abs(first), abs(last), 1e-300)):
            middle = (first + last) / 2
            half = 0.15 if log else max(abs(middle) / 2, 0.5)
            first, last = middle - half, middle + half
        before = room if before is None else before
        span = (last - first) / (1 - room - before)
        first, last = first - before * span, last + room * span
        return cls(low=10**first, high=10**last, log=True) if log else cls(low=first, high=last)

    def at(self, value: float) -> float:
        """Return where a value is, 0 at the low end and 1 at the high end; beyond them for values outside."""
        if self.log:
            return math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 8) -> list[float]:
        """Return at most that many round values to write on the axis."""
        return self._log_ticks(most) if self.log else self._even_ticks(most)

    def _log_ticks(self, most: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in (STEPS, (1.0, 3.0), (1.0,)):
            found = [step * 10.0**decade for decade in decades for step in steps]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) <= most:
                break
        if len(found) < 2:
            return self._even_ticks(min(most, 5))
        return found[:: math.ceil(len(found) / most)]

    def _even_ticks(self, most: int) -> list[float]:
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        while (self.high - self.low) / step > most:
            step *= 2 if f"{step:e}"[0] != "2" else 2.5
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step) + 1)]
