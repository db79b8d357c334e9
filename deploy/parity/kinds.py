"""Kinds of input values: what floats, bytes, numbers of tokens, masks and lengths of a probe look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploy.core.tensors import TensorSpec

Array = NDArray[Any]
Rng = np.random.Generator
Role = Literal["floats", "bytes", "numbers", "mask", "length"]

LARGE = 30.0
"""Standard deviation of the large-amplitude probes: ten times the range of a normalized image."""

SHIFT = 8.0
"""Mean of the shifted probes, in standard deviations: outside the range of ReLU6 and of a hard sigmoid."""

TINY = 1e-3
"""Standard deviation of the tiny probes."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet, for models whose preprocessing is not known."""

GROUPS = {
    "normal": "unit",
    "uniform": "unit",
    "picture": "unit",
    "normalized": "unit",
    "bytes": "bytes",
    "zeros": "constant",
    "constant": "constant",
    "tiny": "tiny",
    "positive": "shifted",
    "negative": "shifted",
    "large": "large",
}
"""The group of probes that each kind belongs to."""

MASKS = ("all", "prefix", "suffix", "random", "one", "but one", "none")
"""Patterns of a mask: which positions are true. Real masks are contiguous."""

SAFE_MASKS = ("prefix", "suffix", "random")
"""Patterns that leave something to compute, whether true means to keep a position or to mask it."""

NUMBERS = ("random", "ascending", "equal", "last", "first")
"""Patterns of integers: random with both ends of the range, ascending, all equal, and all at an end of the range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """The values that an input takes.

    Attributes:
        low, high: range of integers (``high`` exclusive), or of floats with bounds; the length of the sequence for the
            role ``length``; None if floats have no bounds.
        patterns: the patterns of a mask that the model gives finite results for.
        mean, std: statistics of a float picture, by channel.
        pixels: floats are raw pixel values, 0 to 255; the kind ``negative`` leaves this range.
    """

    role: Role
    low: float | None = None
    high: float | None = None
    patterns: tuple[str, ...] = MASKS
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    pixels: bool = False

    @property
    def signed(self) -> bool:
        """Whether the values are floats that may be negative."""
        return self.role == "floats" and self.low is None and not self.pixels


def domain_of(spec: TensorSpec) -> Domain:
    """Return what the name, dtype and bounds of an input say about its values; unknown integers are 0 and 1."""
    name = spec.name.lower()
    if spec.dtype.startswith("float"):
        low, high = spec.bounds or (None, None)
        return Domain(role="floats", low=low, high=high)
    if spec.dtype == "bool" or ("mask" in name and spec.bounds in (None, (0, 2))):
        return Domain(role="mask")
    if spec.bounds is not None:
        return Domain(role="numbers", low=spec.bounds[0], high=spec.bounds[1])
    if spec.dtype == "uint8":
        return Domain(role="bytes", low=0, high=256)
    return Domain(role="numbers", low=0, high=2)


def draw(spec: TensorSpec, domain: Domain, kind: str, turn: int, shape: tuple[int, ...], rng: Rng) -> Array:
    """Draw the values of one sample, or of a call without samples.

    Args:
        spec: gives the dtype.
        domain: the values that the input takes.
        kind: a key of `GROUPS`; integers have patterns instead, which change with ``turn``.
        turn: number of the sample.
        shape: of the values.
        rng: source of randomness.
    """
    if domain.role == "mask":
        return np.asarray(_mask(domain.patterns[turn % len(domain.patterns)], shape, rng), spec.dtype)
    if domain.role == "length":
        return _lengths(domain, turn, shape).astype(spec.dtype)
    if domain.role == "numbers":
        pattern = "random" if shape and turn % 2 == 0 else NUMBERS[(turn // 2) % len(NUMBERS)]
        return _numbers(pattern, int(domain.low or 0), int(domain.high or 2), shape, rng).astype(spec.dtype)
    if domain.role == "bytes":
        return np.clip(np.rint(_floats(kind, domain, shape, rng)), 0, 255).astype(spec.dtype)
    return _floats(kind, domain, shape, rng).astype(spec.dtype)


def _floats(kind: str, domain: Domain, shape: tuple[int, ...], rng: Rng) -> Array:
    if domain.low is not None and domain.high is not None:
        return domain.low + (domain.high - domain.low) * _SHARES.get(kind, _SHARES["normal"])(shape, rng)
    if domain.pixels:
        return (-255 if kind == "negative" else 255) * _SHARES.get(kind, _SHARES["normal"])(shape, rng)
    if kind == "normalized":
        channels = shape[0] if len(shape) > 1 else 0
        wide = (-1, *(1,) * (len(shape) - 1)) if shape else ()
        mean, std = (
            np.array(item if len(item) == channels else item[:1]).reshape(wide) for item in (domain.mean, domain.std)
        )
        return np.asarray((smooth(shape, rng) - mean) / std)
    return _KINDS[kind](shape, rng)


def smooth(shape: tuple[int, ...], rng: Rng) -> Array:
    """Draw values from 0 to 1 that change slowly along every axis but the first of several, like a photograph."""
    total = np.zeros(shape)
    spatial = range(1, len(shape)) if len(shape) > 1 else range(len(shape))
    for _ in range(4):
        phase = rng.uniform(0, 1, shape[:1] + (1,) * (len(shape) - 1) if len(shape) > 1 else ())
        for axis in spatial:
            steps = np.arange(shape[axis]).reshape([-1 if other == axis else 1 for other in range(len(shape))])
            phase = phase + rng.uniform(-2, 2) * steps / max(shape[axis], 1)
        total = total + rng.uniform(0.3, 1) * np.cos(2 * np.pi * phase)
    low, high = total.min(initial=np.inf), total.max(initial=-np.inf)
    return np.asarray((total - low) / (high - low)) if high > low else np.full(shape, rng.uniform(0.2, 0.8))


_KINDS: Mapping[str, Callable[[tuple[int, ...], Rng], Array]] = {
    "normal": lambda shape, rng: rng.standard_normal(shape),
    "uniform": lambda shape, rng: rng.uniform(0.0, 1.0, shape),
    "picture": smooth,
    "bytes": lambda shape, rng: np.rint(255 * smooth(shape, rng)),
    "zeros": lambda shape, rng: np.zeros(shape),
    "constant": lambda shape, rng: np.full(shape, 0.5),
    "tiny": lambda shape, rng: TINY * rng.standard_normal(shape),
    "positive": lambda shape, rng: SHIFT + rng.standard_normal(shape),
    "negative": lambda shape, rng: -SHIFT + rng.standard_normal(shape),
    "large": lambda shape, rng: LARGE * rng.standard_normal(shape),
}
"""Floats without bounds; ``normalized`` needs the statistics of the domain."""

_SHARES: Mapping[str, Callable[[tuple[int, ...], Rng], Array]] = {
    "normal": lambda shape, rng: np.clip(rng.normal(0.5, 0.2, shape), 0.0, 1.0),
    "uniform": lambda shape, rng: rng.uniform(0.0, 1.0, shape),
    "picture": smooth,
    "normalized": smooth,
    "bytes": lambda shape, rng: rng.uniform(0.0, 1.0, shape),
    "zeros": lambda shape, rng: np.zeros(shape),
    "constant": lambda shape, rng: np.full(shape, 0.5),
    "tiny": lambda shape, rng: rng.uniform(0.0, 0.02, shape),
    "positive": lambda shape, rng: rng.uniform(0.8, 1.0, shape),
    "negative": lambda shape, rng: rng.uniform(0.0, 0.2, shape),
}
"""The same within bounds, as shares of their range."""


def _mask(pattern: str, shape: tuple[int, ...], rng: Rng) -> Array:
    """Draw a mask whose last axis counts positions."""
    length = shape[-1] if shape else 1
    at, cut = np.arange(length), int(rng.integers(1, max(length, 2)))
    if pattern == "random":
        return np.asarray(rng.uniform(0, 1, shape) < 0.6)
    row = {
        "all": at >= 0,
        "none": at < 0,
        "prefix": at < cut,
        "suffix": at >= cut,
        "one": at == int(rng.integers(max(length, 1))),
        "but one": at < length - 1,
    }[pattern]
    return np.array(np.broadcast_to(row if shape else row[0], shape))


def _lengths(domain: Domain, turn: int, shape: tuple[int, ...]) -> Array:
    """From the maximum down to 1, in descending order within a call, as packed sequences need them."""
    most = int(domain.high or 1)
    size = int(np.prod(shape, dtype=np.int64))
    if size > 1 or not shape:
        steps = np.linspace(most, 1, max(size, 1) if size > 1 else 8)
        values = np.rint(steps if size > 1 else steps[turn % 8 : turn % 8 + 1])
        return np.maximum(values, 1).reshape(shape)
    return np.full(shape, max(1, most - turn % most))


def _numbers(pattern: str, low: int, high: int, shape: tuple[int, ...], rng: Rng) -> Array:
    last = high - 1
    size = int(np.prod(shape, dtype=np.int64))
    if pattern == "last":
        return np.full(shape, last)
    if pattern == "first":
        return np.full(shape, low)
    if pattern == "equal":
        return np.full(shape, rng.integers(low, high))
    if pattern == "ascending":
        return np.asarray(low + (rng.integers(high - low) + np.arange(size)) % (high - low)).reshape(shape)
    values = rng.integers(low, high, shape)
    if size > 2:  # both ends of the range
        values.reshape(-1)[rng.permutation(size)[:2]] = low, last
    return values
