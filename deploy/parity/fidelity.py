"""How faithful an eight-bit graph is to the float graph it was made from.

Rounding to eight bits is no rounding error of arithmetic, so it has no envelope: it is measured, and judged only by
bounds that somebody sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.parity.metric import Centerd

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFidelity:
    """One output over all samples.

    Attributes:
        sqnr_db: 20 log10 of signal over noise; the signal is the float output's root mean square about its mean over
            samples, so that a constant earns nothing. Infinite where nothing differs, None where nothing varies.
        cosine: between the outputs of a sample, the mean over samples; ``worst_cosine`` the least.
        agreement: share of samples with the same largest logit; None where the output is no row of logits.
        not_finite: samples with a value that is NaN or infinite; they are left out of the other figures.
    """

    output: str
    samples: int
    sqnr_db: float | None
    cosine: float
    worst_cosine: float
    agreement: float | None
    not_finite: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, infinity as None with ``identical``."""
        same = self.sqnr_db == math.inf
        return {**asdict(self), "sqnr_db": None if same else self.sqnr_db, "identical": same}


@dataclass(slots=True)
class _FidelityTally:
    centered: Centerd = field(default_factory=Centerd)
    noise: float = 0.0
    cosines: list[float] = field(default_factory=list)
    agreed: int = 0
    logits: bool = True
    not_finite: int = 0

    def add(self, reference: Array, found: Array) -> None:
        if not np.isfinite(found).all():
            self.not_finite += 1
            return
        wide, other = reference.astype(np.float64), found.astype(np.float64)
        self.centered.add(wide)
        self.noise += float(np.sum((wide - other) ** 2))
        norms = float(np.linalg.norm(wide) * np.linalg.norm(other))
        self.cosines.append(float(np.vdot(wide, other)) / norms if norms else float(np.array_equal(wide, other)))
        self.logits &= wide.ndim == 1
        self.agreed += self.logits and int(wide.argmax() == other.argmax())


class Fidelity:
    """Accumulates samples; memory is that of one."""

    def __init__(self) -> None:
        self._found: dict[str, _FidelityTally] = {}

    def add(self, reference: Mapping[str, Array], found: Mapping[str, Array]) -> None:
        """Add a batch: float outputs of both by name, the first axis samples."""
        for name, values in reference.items():
            if np.issubdtype(values.dtype, np.floating):
                tally = self._found.setdefault(name, _FidelityTally())
                for expected, other in zip(values, found[name], strict=True):
                    tally.add(expected, other)

    def outputs(self) -> tuple[OutputFidelity, ...]:
        """What was found, output by output."""
        return tuple(_summary(name, tally) for name, tally in self._found.items())


def _summary(name: str, tally: _FidelityTally) -> OutputFidelity:
    count = tally.centered.count
    return OutputFidelity(
        output=name,
        samples=count + tally.not_finite,
        sqnr_db=decibels(tally.centered.squares, tally.noise) if count > 1 else None,
        cosine=float(np.mean(tally.cosines)) if count else math.nan,
        worst_cosine=min(tally.cosines, default=math.nan),
        agreement=tally.agreed / count if count and tally.logits else None,
        not_finite=tally.not_finite,
    )


def decibels(signal: float, noise: float) -> float | None:
    """Ratio of two sums of squares in dB; None where there is no signal, infinite where there is no noise."""
    if signal <= 0.0:
        return None
    return math.inf if noise == 0.0 else 10.0 * math.log10(signal / noise)
