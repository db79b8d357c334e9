"""How close an INT8 graph is to the float graph it was made from.

Quantization error is not a rounding error of arithmetic, so the limits of the parity check do not apply. It is
measured, and judged only against limits that the user sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.parity.metric import RunningMean

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFidelity:
    """One output over all samples.

    Attributes:
        sqnr_db: signal-to-quantization-noise ratio in dB. The signal is the root mean square of the float output
            minus its mean over samples, so a constant offset does not count. Infinite where nothing differs, None
            where nothing varies.
        cosine: cosine similarity of the two outputs of a sample, mean over samples.
        worst_cosine: minimum over samples.
        agreement: share of samples with the same largest logit; None where the output is not a row of logits.
        not_finite: samples with a NaN or infinite value; they are left out of the other figures.
    """

    output: str
    samples: int
    sqnr_db: float | None
    cosine: float
    worst_cosine: float
    agreement: float | None
    not_finite: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: infinity becomes None, with ``identical`` true."""
        same = self.sqnr_db == math.inf
        return {**asdict(self), "sqnr_db": None if same else self.sqnr_db, "identical": same}


@dataclass(slots=True)
class _OutputTally:
    centered: RunningMean = field(default_factory=RunningMean)
    noise: float = 0.0
    cosines: list[float] = field(default_factory=list)
    agreed: int = 0
    logits: bool = True
    not_finite: int = 0

    def add(self, reference: Array, actual: Array) -> None:
        if not np.isfinite(actual).all():
            self.not_finite += 1
            return
        wide, other = reference.astype(np.float64), actual.astype(np.float64)
        self.centered.add(wide)
        self.noise += float(np.sum((wide - other) ** 2))
        norms = float(np.linalg.norm(wide) * np.linalg.norm(other))
        self.cosines.append(float(np.vdot(wide, other)) / norms if norms else float(np.array_equal(wide, other)))
        self.logits &= wide.ndim == 1
        self.agreed += self.logits and int(wide.argmax() == other.argmax())

    def summary(self, output: str) -> OutputFidelity:
        count = self.centered.count
        return OutputFidelity(
            output=output,
            samples=count + self.not_finite,
            sqnr_db=decibels(self.centered.deviations.total, self.noise) if count > 1 else None,
            cosine=float(np.mean(self.cosines)) if count else math.nan,
            worst_cosine=min(self.cosines, default=math.nan),
            agreement=self.agreed / count if count and self.logits else None,
            not_finite=self.not_finite,
        )


class Fidelity:
    """Accumulates samples in the memory of one."""

    def __init__(self) -> None:
        self._tallies: dict[str, _OutputTally] = {}

    def add(self, reference: Mapping[str, Array], actual: Mapping[str, Array]) -> None:
        """Add a batch of outputs by name, first axis samples; integer outputs are ignored."""
        for name, values in reference.items():
            if np.issubdtype(values.dtype, np.floating):
                tally = self._tallies.setdefault(name, _OutputTally())
                for expected, other in zip(values, actual[name], strict=True):
                    tally.add(expected, other)

    def outputs(self) -> tuple[OutputFidelity, ...]:
        """Return the figures of every output."""
        return tuple(tally.summary(name) for name, tally in self._tallies.items())


def decibels(signal: float, noise: float) -> float | None:
    """Return the ratio of two sums of squares in dB: None without signal, infinite without noise."""
    if signal <= 0.0:
        return None
    return math.inf if noise == 0.0 else 10.0 * math.log10(signal / noise)
