"""Run the probes through the reference, the baseline and the candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.parity.choices import Chooser
from deploy.parity.metric import Array
from deploy.parity.probes import Probe
from deploy.parity.tally import Tally
from deploy.parity.verdict import ENVELOPE, FLOOR, ParityReport


class Candidate(Protocol):
    """A runner that works while the reference is computed, such as `deploy.core.isolated.IsolatedRunner`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def submit(self, feeds: Feeds) -> None: ...  # noqa: D102
    def result(self) -> Fetches: ...  # noqa: D102


class CachedRunner(Runner):
    """A runner that runs each feeds object once and returns the same outputs afterwards."""

    def __init__(self, inner: Runner) -> None:
        self.inner = inner
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self._cache: dict[int, tuple[Feeds, Fetches]] = {}

    def run(self, feeds: Feeds) -> Fetches:
        """Return the outputs for ``feeds``, looked up by object identity."""
        if id(feeds) not in self._cache:
            self._cache[id(feeds)] = (feeds, self.inner.run(feeds))  # a reference to feeds keeps its id from reuse
        return self._cache[id(feeds)][1]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """A call of the candidate, with the float64 reference and PyTorch's own run for it."""

    feeds: Feeds
    expected: Fetches
    own: Fetches
    outputs: Fetches

    def repeat(self, candidate: Candidate, precision: str) -> list[str]:
        """Call again and return the outputs that differ by more than rounding, as faults."""
        candidate.submit(self.feeds)
        try:
            again = candidate.result()
        except BackendCrashedError:
            raise
        except BackendError as exc:
            return [f"the file fails on the second of two equal calls: {exc.message}"]
        yardsticks = list(zip(self.expected.values(), self.own.values(), strict=True))
        if len(yardsticks) != len(again):
            yardsticks = [(value, value) for value in again.values()]
        ordered = again if set(again) != set(self.expected) else self.expected
        names = [
            name
            for name, (expected, own) in zip(ordered, yardsticks, strict=True)
            if not _same(self.outputs[name], again[name], expected, own, precision)
        ]
        return [f"the file answers differently on two equal calls: {', '.join(names)}"] if names else []


def _same(first: Array, second: Array, expected: Array, own: Array, precision: str) -> bool:
    """Return whether two answers differ by no more than the rounding error of PyTorch's own run allows."""
    if first.shape != second.shape:
        return False
    if not np.issubdtype(first.dtype, np.floating) or own.shape != expected.shape:
        return np.array_equal(first, second)
    rounding = np.maximum(_rms(own - expected), FLOOR[precision] * _rms(expected))
    return bool(np.array_equal(first, second, equal_nan=True) or _rms(first - second) <= ENVELOPE * rounding)


def _rms(values: Array) -> float:
    finite = values[np.isfinite(values)].astype(np.float64)
    return float(np.sqrt(np.mean(finite * finite))) if finite.size else 0.0


def _size(feeds: Feeds) -> int:
    return sum(value.size for value in feeds.values())


def compare(
    reference: Runner,
    baseline: Runner,
    candidate: Candidate,
    probes: Sequence[Probe],
    *,
    precision: str = "fp32",
    seed: int = 0,
    rename: Mapping[str, str] | None = None,
    chooser: Chooser | None = None,
    perturbed: Runner | None = None,
    advance: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> ParityReport:
    """Judge a candidate against the model in float64 and PyTorch's own run in the candidate's precision.

    Probes have the model's input names; ``rename`` gives the candidate's where they differ. ``chooser`` compares the
    discrete choices behind the outputs. ``perturbed`` is PyTorch's own run with other roundings, for networks that may
    amplify them. ``advance`` is called after every probe with the number of probes done, their total, and the label of
    the probe.

    Raises:
        BackendError: the model itself cannot be run.
        BackendCrashedError: the candidate's process died.
    """
    tally = Tally(precision=precision, chooser=chooser, perturbed=perturbed)
    names = rename or {}
    first: _Call | None = None
    for index, probe in enumerate(probes):
        feeds = {names.get(name, name): value for name, value in probe.feeds.items()}
        candidate.submit(feeds)
        try:
            expected, own = reference.run(probe.feeds), baseline.run(probe.feeds)
        except Exception:
            with suppress(BackendError):  # otherwise the next call receives the answer to this one
                candidate.result()
            raise
        try:
            outputs = candidate.result()
        except BackendCrashedError:
            raise
        except BackendError as exc:
            where = ", ".join(f"{name} {size}" for name, size in probe.sizes.items()) or probe.label
            tally.errors[where] = exc.message
        else:
            tally.add(probe, expected, own, outputs)
            if first is None or _size(feeds) < _size(first.feeds):
                first = _Call(feeds=feeds, expected=expected, own=own, outputs=outputs)
        advance(index + 1, len(probes), probe.label)
    if first is not None:
        tally.faults += first.repeat(candidate, precision)
    verdict, reasons, judged = tally.conclude(probes)
    symbols = probes[0].sizes if probes else ()
    return ParityReport(
        verdict=verdict,
        reasons=reasons,
        precision=precision,
        outputs=judged,
        dynamic={name: tuple(sorted({probe.sizes[name] for probe in probes})) for name in symbols},
        probes=len(probes),
        samples=max((item.samples for item in tally.accumulated.values()), default=0),
        seed=seed,
        notes=tuple(dict.fromkeys(tally.notes)),
    )
