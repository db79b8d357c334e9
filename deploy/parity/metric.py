"""Signal, noise and their ratio, accumulated sample by sample in the memory of one sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_CHANNELS = 1024
"""Axes with more indices than this are positions, not channels."""

SPREAD = 30.0
"""Ratio of the largest to the smallest signal of an axis from which its indices are judged in groups of like scale."""

MIN_FREEDOM = 6
"""Degrees of freedom that the signal of a channel needs before its scale is compared with that of others."""

INVARIANT = 1e-9
"""Deviations below this share of the magnitude are rounding of float64 itself."""

LIMITS = {
    precision: float(np.finfo(dtype).max)
    for precision, dtype in (("fp64", np.float64), ("fp32", np.float32), ("fp16", np.float16))
}
LIMITS["bf16"] = (2.0 - 2.0**-7) * 2.0**127
"""From this magnitude on, a value counts as infinite in the precision."""

_BELOW_LIMIT = 0.9999


@dataclass(frozen=True, slots=True)
class Part:
    """Channels that are judged together: indices of an axis of a sample, or everything."""

    axis: int | None = None
    indices: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.axis is None:
            return ""
        first, last = self.indices[0], self.indices[-1]
        if first == last:
            return f"channel {first} of axis {self.axis + 1}"
        run = f"{first} to {last}" if len(self.indices) == last - first + 1 else ", ".join(map(str, self.indices[:8]))
        return f"channels {run}{' …' if len(self.indices) > 8 and ',' in run else ''} of axis {self.axis + 1}"


WHOLE = Part()


@dataclass(slots=True)
class Squares:
    """Sums of squares of an array: in total, and by index of every axis that may hold channels."""

    total: float = 0.0
    axes: dict[int, Array] = field(default_factory=dict)

    def add(self, squares: Array) -> None:
        """Add an array of squares; its shape must be the same in every call."""
        self.total += float(squares.sum())
        for axis, size in enumerate(squares.shape):
            if 2 <= size <= MAX_CHANNELS:
                others = tuple(other for other in range(squares.ndim) if other != axis)
                self.axes[axis] = self.axes.get(axis, 0.0) + squares.sum(axis=others)

    def of(self, part: Part) -> float:
        """Return the sum over a part."""
        return self.total if part.axis is None else float(self.axes[part.axis][list(part.indices)].sum())


@dataclass(slots=True)
class RunningMean:
    """Mean over samples of one shape, the squared deviations from it (Welford 1962), and the squares themselves.

    Attributes:
        spread: of the first sample, if it has one axis: squared deviations from its own mean.
        active: number of values that are not 0.
        whole: by axis that may hold channels, which indices have integers only.
    """

    count: int = 0
    mean: Array | float = 0.0
    spread: float = 0.0
    deviations: Squares = field(default_factory=Squares)
    magnitudes: Squares = field(default_factory=Squares)
    active: Squares = field(default_factory=Squares)
    whole: dict[int, Array] = field(default_factory=dict)

    def add(self, sample: Array) -> None:
        """Add one sample."""
        self.count += 1
        if self.count == 1 and sample.ndim == 1:
            self.spread = float(np.sum(np.square(sample - sample.mean())))
        before = sample - self.mean
        self.mean = self.mean + before / self.count
        self.deviations.add(before * (sample - self.mean))
        self.magnitudes.add(sample * sample)
        self.active.add(np.asarray(sample != 0.0, np.float64))
        whole = sample == np.rint(sample)
        for axis in self.magnitudes.axes:
            found = whole.all(axis=tuple(other for other in range(sample.ndim) if other != axis))
            self.whole[axis] = self.whole.get(axis, True) & found


@dataclass(frozen=True, slots=True)
class Difference:
    """Squared differences of PyTorch's run and of the candidate from the reference, for one sample."""

    at: str
    shape: tuple[int, ...]
    baseline: Squares
    candidate: Squares

    def size(self, part: Part) -> int:
        """Number of elements of a part."""
        size = math.prod(self.shape)
        return size if part.axis is None else size // self.shape[part.axis] * len(part.indices)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Root mean squares of a part of an output, over all samples and of the worst sample, in the output's unit.

    Attributes:
        signal: of the reference's deviation from its mean over samples; 0 where nothing varies. A list of a length that
            no other sample has counts with the deviation from its own mean, beside samples that have the same shape.
        magnitude: of the reference itself.
        elements: number of values.
        active: number of values that are not 0 in the reference; behind a ReLU, only these have rounding errors.
        samples: number of samples.
    """

    signal: float
    magnitude: float
    baseline: float
    baseline_worst: float
    candidate: float
    candidate_worst: float
    worst_at: str
    elements: int
    active: int
    samples: int


@dataclass(slots=True)
class Counted:
    """Integers of one output: how many there are, and how many differ from the reference, by run."""

    elements: int = 0
    baseline: int = 0
    candidate: int = 0
    varies: bool = False
    first: dict[tuple[int, ...], Array] = field(default_factory=dict)

    def add(self, reference: Array, baseline: Array, candidate: Array) -> None:
        """Add one sample."""
        self.elements += reference.size
        self.baseline += int(np.count_nonzero(baseline != reference))
        self.candidate += int(np.count_nonzero(candidate != reference))
        first = self.first.setdefault(reference.shape, reference)
        self.varies |= not np.array_equal(first, reference)


@dataclass(slots=True)
class Accumulator:
    """Statistics of one output over one group of probes.

    Attributes:
        centered: statistics of the reference, by sample shape.
        differences: noise of PyTorch's run in the artifact's precision, and of the artifact, sample by sample.
        counted: integers and booleans.
        faults: reasons why the candidate fails.
        unusable: reasons why the candidate cannot be judged.
        empty: whether the output had no row for some probe.
    """

    precision: str = "fp32"
    elements: int = 0
    samples: int = 0
    peak: float = 0.0
    centered: dict[tuple[int, ...], RunningMean] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    counted: Counted = field(default_factory=Counted)
    faults: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    empty: bool = False

    def add(self, reference: Array, baseline: Array, candidate: Array, *, batched: bool, at: str) -> None:
        """Add the output for the probe ``at``; if ``batched``, its first axis counts samples."""
        if baseline.shape != reference.shape:
            self.unusable.append(
                f"PyTorch's own run has shape {list(baseline.shape)}, the float64 run {list(reference.shape)} ({at})"
            )
            return
        if candidate.shape != reference.shape:
            self.faults.append(f"shape {list(candidate.shape)} instead of {list(reference.shape)} ({at})")
            return
        self.empty |= reference.shape[:1] == (0,)
        floats = np.issubdtype(reference.dtype, np.floating)
        rows = zip(reference, baseline, candidate, strict=True) if batched else [(reference, baseline, candidate)]
        for index, (expected, own, given) in enumerate(rows):
            sample = f"sample {index} of {at}" if batched else at
            if not floats:
                self.counted.add(np.asarray(expected), np.asarray(own), np.asarray(given))
            elif np.size(expected):
                self._add_sample(np.asarray(expected), np.asarray(own), np.asarray(given), sample)

    def _add_sample(self, expected: Array, own: Array, given: Array, at: str) -> None:
        limit = _BELOW_LIMIT * LIMITS[self.precision]
        wide, base, actual = (np.asarray(value, np.float64) for value in (expected, own, given))
        kinds = [_kinds(value, limit) for value in (wide, base, actual)]
        if any(kind is not None for kind in kinds):
            model, ours, theirs = (np.zeros(wide.shape, np.int8) if kind is None else kind for kind in kinds)
            usable = model == ours
            wrong = int(np.count_nonzero(usable & (model != theirs)))
            if wrong:
                self.faults.append(f"{wrong} values are finite in one run only, or not finite in another way ({at})")
                return
            if not usable.all():
                self.unusable.append(f"PyTorch's own run overflows where the float64 run does not ({at})")
                return
            wide, base, actual = (np.where(model == 0, value, 0.0) for value in (wide, base, actual))
        self.samples += 1
        self.elements += wide.size
        self.centered.setdefault(wide.shape, RunningMean()).add(wide)
        noise, rounding = actual - wide, base - wide
        self.peak = max(self.peak, float(np.max(np.abs(noise), initial=0.0)))
        found = Difference(at, wide.shape, Squares(), Squares())
        found.baseline.add(rounding * rounding)
        found.candidate.add(noise * noise)
        self.differences.append(found)

    @property
    def invariant(self) -> bool:
        """Whether the reference is the same for every sample of a shape."""
        repeated = [item for item in self.centered.values() if item.count > 1]
        return bool(repeated) and all(
            item.deviations.total <= INVARIANT**2 * item.magnitudes.total for item in repeated
        )

    def measure(self, part: Part = WHOLE) -> Measured:
        """Return signal and noise of a part; shapes without the part's axis do not count."""
        found = [item for item in self.differences if part.axis is None or part.axis in item.baseline.axes]
        sizes = [item.size(part) for item in found]
        base = [item.baseline.of(part) for item in found]
        given = [item.candidate.of(part) for item in found]
        elements = sum(sizes)
        worst = max(range(len(found)), key=lambda index: given[index] / sizes[index], default=None)
        squares = magnitudes = active = alone = 0.0
        count = count_alone = 0
        for shape, item in self.centered.items():
            if part.axis is not None and part.axis not in item.magnitudes.axes:
                continue
            magnitudes += item.magnitudes.of(part)
            active += item.active.of(part)
            if item.count > 1:
                squares += item.deviations.of(part)
                count += item.count * Difference("", shape, Squares(), Squares()).size(part)
            elif len(shape) == 1 and part == WHOLE:
                alone += item.spread
                count_alone += shape[0]
        if count:  # a list whose length depends on the data: what varies in the others is no measure of its noise
            squares, count = squares + alone, count + count_alone
        signal = math.sqrt(max(squares, 0.0) / count) if count else 0.0
        magnitude = math.sqrt(magnitudes / elements) if elements else 0.0
        return Measured(
            signal=signal if signal > INVARIANT * magnitude else 0.0,
            magnitude=magnitude,
            baseline=math.sqrt(sum(base) / elements) if elements else 0.0,
            baseline_worst=max((math.sqrt(one / size) for one, size in zip(base, sizes, strict=True)), default=0.0),
            candidate=math.sqrt(sum(given) / elements) if elements else 0.0,
            candidate_worst=0.0 if worst is None else math.sqrt(given[worst] / sizes[worst]),
            worst_at="" if worst is None else found[worst].at,
            elements=elements,
            active=int(active),
            samples=len(found),
        )

    def parts(self) -> tuple[Part, ...]:
        """Return groups of channels of one kind, if an axis mixes kinds; otherwise everything as one part.

        Kinds are integers, such as labels among floats, and scales: a channel belongs to the largest channel whose
        signal is at most `SPREAD` times its own. Channels that are mostly 0, as behind a ReLU, have a small signal for
        another reason and belong to the largest. The axis is one with integers among floats, or else the one whose
        indices differ most in signal. Only axes of the same size in every sample hold channels.
        """
        best: tuple[bool, float] = (False, SPREAD)
        parts: tuple[Part, ...] = (WHOLE,)
        shapes = list(self.centered)
        for axis in range(min(map(len, shapes), default=0)):
            if len({(len(shape), shape[axis]) for shape in shapes}) > 1:
                continue
            scales = _scales(self.centered, axis)
            if not (scales > 0.0).any():
                continue
            whole = np.all([item.whole[axis] for item in self.centered.values()], axis=0) & (scales > 0.0)
            floats = ~whole & (scales > 0.0)
            scales = np.where(floats & _sparse(self.centered, axis), scales.max(), scales)
            mixed = bool(whole.any() and floats.any())
            spread = float(scales[scales > 0.0].max() / scales[scales > 0.0].min())
            if (mixed, spread) > best and (mixed or spread > SPREAD):
                best = mixed, spread
                kinds = (whole, floats) if mixed else (scales > 0.0,)
                parts = tuple(part for kind in kinds for part in _by_scale(axis, np.where(kind, scales, 0.0)))
        return parts


def _by_scale(axis: int, scales: Array) -> list[Part]:
    parts = []
    while scales.max() > 0.0:
        chosen = scales >= scales.max() / SPREAD
        parts.append(Part(axis, tuple(np.flatnonzero(chosen).tolist())))
        scales = np.where(chosen, 0.0, scales)
    return parts


def _scales(centered: Mapping[tuple[int, ...], RunningMean], axis: int) -> Array:
    """Return the signal of every index of an axis, or its magnitude where it does not vary; empty if unknown."""
    squares, magnitudes, freedom, elements = [], [], 0, 0
    for shape, item in centered.items():
        if axis not in item.deviations.axes:
            return np.empty(0)
        each = math.prod(shape) // shape[axis]
        magnitudes.append(item.magnitudes.axes[axis])
        elements += item.count * each
        if item.count > 1:
            squares.append(item.deviations.axes[axis])
            freedom += (item.count - 1) * each
    if freedom < MIN_FREEDOM:
        return np.empty(0)
    signal = np.sqrt(np.maximum(np.sum(squares, axis=0), 0.0) / freedom)
    magnitude = np.sqrt(np.sum(magnitudes, axis=0) / elements)
    return np.asarray(np.where(signal > INVARIANT * magnitude, signal, magnitude))


def _sparse(centered: Mapping[tuple[int, ...], RunningMean], axis: int) -> Array:
    """Return which indices of an axis have values that are mostly 0."""
    active = np.sum([item.active.axes[axis] for item in centered.values()], axis=0)
    elements = sum(item.count * math.prod(shape) // shape[axis] for shape, item in centered.items())
    return np.asarray(active < 0.5 * elements)


def _kinds(value: Array, limit: float) -> Array | None:
    """Return 1 for NaN, 2 and 3 for positive and negative infinity or overflow, 0 for others; None if all are 0."""
    if bool((np.abs(value) < limit).all()):
        return None
    return np.select([np.isnan(value), value >= limit, value <= -limit], [1, 2, 3], 0).astype(np.int8)
