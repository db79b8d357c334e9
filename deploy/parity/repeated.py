"""Two equal calls of a candidate must give equal answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.runner import Feeds, Fetches
from deploy.core.tensors import TensorSpec
from deploy.parity.metric import Array
from deploy.parity.verdict import ENVELOPE, FLOOR


class Candidate(Protocol):
    """A runner that works while the reference is computed, such as `deploy.core.isolated.IsolatedRunner`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def submit(self, feeds: Feeds) -> None: ...  # noqa: D102
    def result(self) -> Fetches: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
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
    if first.dtype.kind not in "fc" or own.shape != expected.shape:
        return np.array_equal(first, second)
    if np.array_equal(first, second, equal_nan=True):
        return True
    finite = np.isfinite(first)
    if not np.array_equal(first[~finite], second[~finite], equal_nan=True) or not np.isfinite(second[finite]).all():
        return False
    usable = np.isfinite(own) & np.isfinite(expected)
    rounding = max(_rms(own[usable] - expected[usable]), FLOOR[precision] * _rms(expected[usable]))
    return _rms(first[finite].astype(expected.dtype) - second[finite]) <= ENVELOPE * rounding


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.abs(values) ** 2))) if values.size else 0.0


def size_of(feeds: Feeds) -> int:
    """Return the number of values of all inputs."""
    return sum(value.size for value in feeds.values())
