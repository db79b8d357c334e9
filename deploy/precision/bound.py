"""What half precision is held to: PyTorch's own run in it, or a signal-to-noise ratio where that run is of no use."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.runner import Feeds, Fetches, Runner
from deploy.parity.groups import UNIT
from deploy.parity.metric import INVARIANT, RunningMean
from deploy.parity.probes import Probe
from deploy.parity.verdict import CHAOTIC, ENVELOPE
from deploy.precision.plan import MIN_SQNR

SAMPLED = 6
"""Number of inputs by which the signal of the outputs is measured."""

USELESS = CHAOTIC["fp16"]
"""Noise over signal from which PyTorch's own run in half precision is of no use."""


class BoundedRunner(Runner):
    """PyTorch's own run in half precision, or where it is of no use a stand-in with as much noise as is allowed.

    It is of no use for a sample where it is not finite although the reference is, or has more noise than `USELESS`. The
    stand-in is the reference plus noise of a quarter of what ``min_sqnr`` allows, since files may have four times the
    noise of PyTorch. The signal is an output's deviation from its mean over ordinary inputs; it grows with the output.

    Attributes:
        min_sqnr: in dB.
        own: PyTorch's own run; None if it does not count.
        replaced: outputs that were replaced at least once.
    """

    def __init__(self, reference: Runner, own: Runner, min_sqnr: float | None, ordinary: Sequence[Feeds]) -> None:
        """With ``min_sqnr``, all is replaced; by the inputs ``ordinary`` the signal of the outputs is measured."""
        self.reference, self.own = reference, own if min_sqnr is None else None
        self.min_sqnr = MIN_SQNR if min_sqnr is None else min_sqnr
        self.inputs, self.outputs = reference.inputs, reference.outputs
        self.replaced: set[str] = set()
        self._allowed = 10.0 ** (-self.min_sqnr / 20.0)
        self._ordinary = ordinary
        self._signals: dict[str, tuple[float, float]] = {}

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        expected = self.reference.run(feeds)
        own = expected if self.own is None else self.own.run(feeds)
        return {name: self._bounded(name, value, own[name]) for name, value in expected.items()}

    def _bounded(self, name: str, expected: NDArray[Any], own: NDArray[Any]) -> NDArray[Any]:
        """Replace the samples, or indices of the first axis, at which PyTorch's own run is of no use."""
        if expected.dtype.kind != "f" or expected.shape != own.shape or not expected.size:
            return own
        signal, size = self._signal(name)
        finite = np.isfinite(expected)
        scale = signal * np.maximum(1.0, _rms(np.where(finite, expected, 0.0)) / (size or 1.0))
        difference = np.where(finite, own.astype(np.float64) - expected, 0.0)
        useless = ~(_rms(difference) <= USELESS * scale) | (self.own is None)
        noise = self._allowed * scale
        if not useless.any():
            return own
        self.replaced.add(name)
        signs = np.where(np.arange(expected.size).reshape(expected.shape) % 2, 1.0, -1.0)
        dtype = np.float32 if self.own is None else own.dtype
        return np.where(useless, expected + signs * noise / ENVELOPE, own).astype(dtype)

    def _signal(self, name: str) -> tuple[float, float]:
        """Return the root mean squares of an output's deviation from its mean over samples, and of the output."""
        if not self._signals:
            means: dict[str, dict[tuple[int, ...], RunningMean]] = defaultdict(lambda: defaultdict(RunningMean))
            for feeds in self._ordinary:
                for output, value in self.reference.run(feeds).items():
                    for sample in value if value.dtype.kind == "f" and value.ndim else ():
                        means[output][sample.shape].add(np.where(np.isfinite(sample), sample, 0.0).astype(np.float64))
            for output, shapes in means.items():
                item = max(shapes.values(), key=lambda found: found.count)
                elements = item.count * max(np.size(item.mean), 1)
                size, varying = (math.sqrt(part.total / elements) for part in (item.magnitudes, item.deviations))
                self._signals[output] = (varying if varying > INVARIANT * size else size), size
        return self._signals.get(name, (1.0, 1.0))


def ordinary_of(probes: Sequence[Probe]) -> list[Feeds]:
    """Return the inputs of at most `SAMPLED` small probes of ordinary inputs."""
    found = [probe for probe in probes if set(probe.groups) <= {UNIT, "real"}] or list(probes)
    return [probe.feeds for probe in sorted(found, key=lambda probe: probe.values)[:SAMPLED]]


def _rms(values: NDArray[Any]) -> NDArray[Any]:
    """Return the root mean square at each index of the first axis, in a shape that fits the values."""
    axes = tuple(range(1, values.ndim))
    return np.asarray(np.sqrt(np.mean(np.square(values, dtype=np.float64), axis=axes, keepdims=True)))
