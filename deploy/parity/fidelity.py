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

FEW_LEVELS = 8
"""An output or channel with no more distinct values has lost what it said, if the float one has `MANY_LEVELS`."""

MANY_LEVELS = 64
COARSE_SHARE = 0.25
"""Share of the channels that must have few levels for the output to count as coarse."""

MAX_PARTS = 4096
"""Largest size of an axis whose elements are looked at one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFidelity:
    """One output over all samples.

    Attributes:
        sqnr_db: signal-to-quantization-noise ratio in dB. The signal is the root mean square of the float output
            minus its mean over samples, so a constant offset does not count. Infinite where nothing differs, None
            where nothing varies.
        cosine: cosine similarity of the two outputs of a sample, mean over samples.
        worst_cosine: minimum over samples.
        worst_part_db: the same ratio for the worst channel, of those whose float values vary. A channel is an element
            of the first or the last axis behind the samples. None where nothing varies.
        coarse: few distinct values are left (`FEW_LEVELS`) where the float output has many, in the whole output or in a
            quarter of its channels.
        agreement: share of equal answers, by `agreement_of`; None where the output is not an answer.
        agreement_of: ``top-1``: the largest of a row of two or more values, or of those at each position where they sum
            to 1; ``decision``: whether a single probability is above 0.5; ``mask``: values above 0.5 in both outputs,
            relative to those in either, of an output that holds probabilities in any other shape. None for other
            outputs.
        not_finite: samples with a NaN or infinite value; they are left out of the other figures.
    """

    output: str
    samples: int
    sqnr_db: float | None
    cosine: float
    worst_cosine: float
    worst_part_db: float | None
    coarse: bool
    agreement: float | None
    agreement_of: str | None
    not_finite: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: infinity becomes None, with ``identical`` true."""
        same = self.sqnr_db == math.inf
        part = None if self.worst_part_db == math.inf else self.worst_part_db
        return {**asdict(self), "sqnr_db": None if same else self.sqnr_db, "worst_part_db": part, "identical": same}


@dataclass(slots=True)
class _Parts:
    """Sums over the channels along one axis; arrays of shape (channels,)."""

    axis: int
    count: int = 0
    sums: Array | float = 0.0
    squares: Array | float = 0.0
    noise: Array | float = 0.0

    def add(self, wide: Array, other: Array) -> None:
        rows, others = (np.moveaxis(item, self.axis, 0).reshape(item.shape[self.axis], -1) for item in (wide, other))
        self.count += rows.shape[1]
        self.sums = self.sums + rows.sum(axis=1)
        self.squares = self.squares + np.square(rows).sum(axis=1)
        self.noise = self.noise + np.square(rows - others).sum(axis=1)

    def worst_db(self) -> float | None:
        squares = np.asarray(self.squares)
        signal = squares - np.square(self.sums) / max(self.count, 1)
        varies = signal > 1e-9 * squares  # less is a rounding error of the difference
        ratios = [decibels(*pair) for pair in zip(signal[varies], np.asarray(self.noise)[varies], strict=True)]
        return min((ratio for ratio in ratios if ratio is not None), default=None)


@dataclass(slots=True)
class _Levels:
    """Distinct values of an output and of its channels, up to a limit."""

    limit: int
    seen: list[set[float]] = field(default_factory=list)

    def add(self, rows: Array) -> None:
        """Add values of shape (channels, n)."""
        self.seen = self.seen or [set() for _ in rows]
        for known, row in zip(self.seen, rows, strict=True):
            if len(known) < self.limit:
                known.update(np.unique(row)[: self.limit].tolist())

    @property
    def full(self) -> list[bool]:
        return [len(known) >= self.limit for known in self.seen]


def _levels_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of a sample that counts channels of different kinds; None for a row or a single channel."""
    if len(shape) < 2:
        return None
    axis = -1 if len(shape) == 2 and shape[-1] < shape[0] else 0
    return axis if 1 < shape[axis] <= MAX_PARTS else None


@dataclass(slots=True)
class _OutputTally:
    centered: RunningMean = field(default_factory=RunningMean)
    noise: float = 0.0
    cosines: list[float] = field(default_factory=list)
    agreed: int = 0
    row: bool = True
    single: bool = True
    decided: int = 0
    sums_to_1: set[int] = field(default_factory=lambda: {0, -1})
    largest: dict[int, list[int]] = field(default_factory=lambda: {0: [0, 0], -1: [0, 0]})
    masks: list[int] = field(default_factory=lambda: [0, 0])
    low: float = math.inf
    high: float = -math.inf
    shape: tuple[int, ...] | None = None
    parts: list[_Parts] = field(default_factory=list)
    levels: tuple[_Levels, _Levels] = field(default_factory=lambda: (_Levels(MANY_LEVELS), _Levels(FEW_LEVELS + 1)))
    whole: tuple[_Levels, _Levels] = field(default_factory=lambda: (_Levels(MANY_LEVELS), _Levels(FEW_LEVELS + 1)))
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
        if wide.size:
            self._add_answers(wide, other)
            self._add_parts(wide, other)

    def _add_answers(self, wide: Array, other: Array) -> None:
        self.low, self.high = min(self.low, float(wide.min())), max(self.high, float(wide.max()))
        self.row &= wide.ndim == 1 and wide.size > 1
        self.single &= wide.size == 1
        self.agreed += self.row and int(wide.argmax() == other.argmax())
        if self.low >= 0.0 and self.high <= 1.0:
            above, also = wide > 0.5, other > 0.5
            self.decided += int(np.array_equal(above, also))
            for axis in sorted(self.sums_to_1):
                if wide.ndim < 2 or wide.shape[axis] < 2 or not np.allclose(wide.sum(axis=axis), 1.0, atol=1e-2):
                    self.sums_to_1.discard(axis)
                    continue
                same = wide.argmax(axis=axis) == other.argmax(axis=axis)
                self.largest[axis][0] += int(same.sum())
                self.largest[axis][1] += same.size
            self.masks[0] += int((above & also).sum())
            self.masks[1] += int((above | also).sum())

    def _add_parts(self, wide: Array, other: Array) -> None:
        if self.shape is None:
            self.shape = wide.shape
            axes = {0, wide.ndim - 1} if wide.ndim else set()
            self.parts = [_Parts(axis) for axis in sorted(axes) if 1 < wide.shape[axis] <= MAX_PARTS]
        same = wide.shape == self.shape  # samples of other shapes have other channels
        for part in self.parts if same else ():
            part.add(wide, other)
        axis = _levels_axis(wide.shape)
        for values, levels, whole in zip((wide, other), self.levels, self.whole, strict=True):
            whole.add(values.reshape(1, -1))
            if axis is not None and same:
                levels.add(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1))

    def coarse(self) -> bool:
        lost = [many and not enough for many, enough in zip(self.levels[0].full, self.levels[1].full, strict=True)]
        return (self.whole[0].full == [True] and self.whole[1].full == [False]) or (
            sum(lost) >= max(1.0, COARSE_SHARE * len(lost))
        )

    def answers(self) -> tuple[float, str] | tuple[None, None]:
        """Return the share of equal answers, and of what."""
        count = self.centered.count
        if not count:
            return None, None
        if self.row:
            return self.agreed / count, "top-1"
        if self.low < 0.0 or self.high > 1.0 or not self.low <= 0.5 < self.high:
            return None, None
        for axis in self.sums_to_1:
            return self.largest[axis][0] / self.largest[axis][1], "top-1"
        return (self.decided / count, "decision") if self.single else (self.masks[0] / self.masks[1], "mask")

    def summary(self, output: str) -> OutputFidelity:
        count = self.centered.count
        sqnr_db = decibels(self.centered.deviations.total, self.noise) if count > 1 else None
        agreement, agreement_of = self.answers()
        ratios = [ratio for part in self.parts if (ratio := part.worst_db()) is not None]
        return OutputFidelity(
            output=output,
            samples=count + self.not_finite,
            sqnr_db=sqnr_db,
            cosine=float(np.mean(self.cosines)) if count else math.nan,
            worst_cosine=min(self.cosines, default=math.nan),
            worst_part_db=min(ratios, default=sqnr_db) if count > 1 else None,
            coarse=self.coarse(),
            agreement=agreement,
            agreement_of=agreement_of,
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
