"""Probes: seeded inputs of several kinds, at several sizes of every dynamic dimension."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deploy.core.runner import Fetches
from deploy.core.tensors import TensorSpec, symbols

BATCH = "batch"
"""The symbol that counts samples."""

LARGE = 30.0
"""Standard deviation of the large-amplitude probes: ten times the range of a normalized image."""

MAX_REAL_SAMPLES = 16
"""Maximum number of real samples that are probed."""

SPOT_SAMPLES = 4
"""Number of samples that `probes_at` draws for one combination of sizes."""

_BATCHES: tuple[tuple[str, ...], ...] = (
    ("normal",),
    ("uniform", "normal"),
    ("normal", "zeros", "uniform", "normal", "uniform"),
)
"""Kinds of the samples in batches of 1, 2 and 5."""

_KINDS = ("normal", "uniform", "zeros", "normal", "uniform", "normal")
"""Kinds of the probes of a model without a dynamic batch; two of large amplitude follow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The inputs of one call of the model.

    Attributes:
        label: name for messages.
        groups: the group of each sample, or of the whole call where samples are not counted: ``unit`` (amplitudes
            that a model is trained on), ``large``, or ``constant`` (the same value everywhere). Each group is judged
            separately.
        sizes: sizes of the dynamic dimensions.
        feeds: arrays by input name.
    """

    label: str
    groups: tuple[str, ...]
    sizes: Mapping[str, int]
    feeds: Fetches


def make_probes(
    inputs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
    *,
    seed: int = 0,
    samples: Fetches | None = None,
    negated: bool = False,
) -> list[Probe]:
    """Make the probes of a parity check, in a fixed order; about thirty samples in total at most.

    Symbolic dimensions are probed at several sizes; ``sizes`` are those of the example inputs. Real ``samples`` by name
    of the input, first axis samples, are probed in addition. ``negated`` adds negated inputs of ordinary amplitude: a
    traced graph may contain only one branch of the model's control flow, and the sign of an input often decides the
    branch of a whole call.
    """
    rng = np.random.default_rng(seed)
    dynamic = symbols(inputs)
    base = {symbol: sizes.get(symbol, 2) for symbol in dynamic}
    probes: list[Probe] = []
    signed = _signed(inputs)
    has_floats = any(spec.dtype.startswith("float") for spec in inputs)
    special = {"large": "large", "zeros": "constant"} if has_floats else {}

    def add(kinds: Sequence[str], at: Mapping[str, int]) -> None:
        feeds = {spec.name: _draw(spec, at, kinds, rng) for spec in inputs}
        where = ", ".join(f"{name} {size}" for name, size in at.items()) or "fixed sizes"
        label = f"{'+'.join(dict.fromkeys(kinds))} at {where}"
        groups = tuple(special.get(kind, "unit") for kind in kinds)
        probes.append(Probe(label=label, groups=groups, sizes=dict(at), feeds=feeds))

    if BATCH in dynamic:
        for kinds in _BATCHES:
            add(kinds, {**base, BATCH: len(kinds)})
        add(("large" if signed else "uniform",) * 3, {**base, BATCH: 3})  # large values may be outside the domain
    else:
        for kind in _KINDS:
            add((kind,), base)
        for _ in range(2):
            add(("large" if signed else "normal",), base)
    if negated and signed:
        probes += [_negated(probe, signed) for probe in probes if "large" not in probe.groups]
    for symbol in dynamic:
        if symbol != BATCH:
            for factor in (2, 1.5):
                at = {**base, symbol: max(1, int(base[symbol] * factor))}
                add(("normal", "uniform"), at if BATCH not in dynamic else {**at, BATCH: 2})
    if samples is not None:
        probes.extend(_real(inputs, base, samples))
    return probes


def can_negate(inputs: Sequence[TensorSpec]) -> bool:
    """Return whether any input is a float without bounds, so that it may be negative."""
    return bool(_signed(inputs))


def _signed(inputs: Sequence[TensorSpec]) -> set[str]:
    return {spec.name for spec in inputs if spec.dtype.startswith("float") and spec.bounds is None}


def _negated(probe: Probe, signed: set[str]) -> Probe:
    feeds = {name: -value if name in signed else value for name, value in probe.feeds.items()}
    return dataclasses.replace(probe, label=f"negative {probe.label}", feeds=feeds)


def probes_at(inputs: Sequence[TensorSpec], sizes: Mapping[str, int], *, seed: int = 0) -> list[Probe]:
    """Make probes of ordinary amplitude at one combination of sizes, with `SPOT_SAMPLES` samples or one batch."""
    rng = np.random.default_rng(seed)
    count = sizes.get(BATCH, 1)
    kinds = [("normal", "uniform")[index % 2] for index in range(count)]
    probes = []
    for call in range(-(-SPOT_SAMPLES // count)):
        feeds = {spec.name: _draw(spec, sizes, kinds, rng) for spec in inputs}
        probes.append(Probe(label=f"probe {call}", groups=("unit",) * count, sizes=dict(sizes), feeds=feeds))
    return probes


def _draw(spec: TensorSpec, sizes: Mapping[str, int], kinds: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    shape = spec.concrete(sizes)
    if BATCH not in spec.symbols or spec.shape[0] != BATCH:
        return _values(spec, kinds[0], shape, rng)
    return np.stack([_values(spec, kind, shape[1:], rng) for kind in kinds])


def _values(spec: TensorSpec, kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if not spec.dtype.startswith("float"):
        low, high = spec.bounds or (0, 2)
        return rng.integers(int(low), int(high), shape).astype(spec.dtype)
    if spec.bounds is not None:
        return _within(spec, kind, shape, rng)
    if kind == "zeros":
        return np.zeros(shape, spec.dtype)
    if kind == "uniform":
        return rng.uniform(0.0, 1.0, shape).astype(spec.dtype)
    return (rng.standard_normal(shape) * (LARGE if kind == "large" else 1.0)).astype(spec.dtype)


def _within(spec: TensorSpec, kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw floats from a bounded domain: uniform, normal about its center, or all at its lower bound."""
    low, high = spec.bounds or (0.0, 1.0)
    if kind == "zeros":
        return np.full(shape, low, spec.dtype)
    shares = rng.uniform(0.0, 1.0, shape) if kind == "uniform" else np.clip(rng.normal(0.5, 0.2, shape), 0.0, 1.0)
    return (low + (high - low) * shares).astype(spec.dtype)


def _real(inputs: Sequence[TensorSpec], base: Mapping[str, int], samples: Fetches) -> list[Probe]:
    """Probe at most `MAX_REAL_SAMPLES` samples, in batches of four or of the fixed batch size."""
    count = min(MAX_REAL_SAMPLES, *(len(value) for value in samples.values()))
    step = 4 if BATCH in base else int(inputs[0].shape[0])
    probes = []
    for start in range(0, count, step):
        size = min(step, count - start)
        if size < step and BATCH not in base:
            break
        feeds = {spec.name: samples[spec.name][start : start + size].astype(spec.dtype) for spec in inputs}
        at = {**base, BATCH: size} if BATCH in base else dict(base)
        label = f"samples {start} to {start + size - 1}"
        probes.append(Probe(label=label, groups=("unit",) * size, sizes=at, feeds=feeds))
    return probes
