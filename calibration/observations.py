"""Histograms of the tensors of a graph, and their transfer between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import Histogram

Arrays = dict[str, NDArray[Any]]


@dataclass(slots=True)
class Observation:
    """The values of one tensor.

    Attributes:
        early: histogram over the first three quarters of the samples; None if their number was not known.
        channels: minimum and maximum of each channel, shape (2, C), for a tensor (N, C, H, W); None for others.
    """

    all: Histogram = field(default_factory=Histogram)
    early: Histogram | None = None
    channels: NDArray[Any] | None = None

    @property
    def dead(self) -> int:
        """Number of channels with a constant value."""
        return 0 if self.channels is None else int((self.channels[0] == self.channels[1]).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Observations:
    """The values of all float tensors of a graph.

    Attributes:
        tensors: observations by tensor, in execution order.
        shared: tensors that use the range of another tensor, and that tensor.
        depthwise: observed tensors that depthwise convolutions read.
    """

    tensors: Mapping[str, Observation]
    shared: Mapping[str, str]
    samples: int
    depthwise: tuple[str, ...] = ()


def pack(observations: Observations) -> tuple[dict[str, Any], Arrays]:
    """Convert observations to plain values and arrays, which can be sent to another process."""
    arrays: Arrays = {}
    tensors: dict[str, Any] = {}
    for index, (name, item) in enumerate(observations.tensors.items()):
        early = None if item.early is None else _pack_histogram(item.early, f"{index}:early", arrays)
        tensors[name] = {"all": _pack_histogram(item.all, f"{index}:all", arrays), "early": early}
        if item.channels is not None:
            arrays[f"{index}:channels"] = item.channels
    fields = {name: getattr(observations, name) for name in ("samples", "depthwise")}
    return {"tensors": tensors, "shared": dict(observations.shared), **fields}, arrays


def unpack(values: dict[str, Any], arrays: Arrays) -> Observations:
    """Convert the result of `pack` back to observations."""
    tensors = {}
    for index, (name, item) in enumerate(values["tensors"].items()):
        tensors[name] = Observation(
            all=_unpack_histogram(item["all"], arrays[f"{index}:all"]),
            early=None if item["early"] is None else _unpack_histogram(item["early"], arrays[f"{index}:early"]),
            channels=arrays.get(f"{index}:channels"),
        )
    return Observations(
        tensors=tensors, shared=values["shared"], samples=values["samples"], depthwise=tuple(values["depthwise"])
    )


def _pack_histogram(histogram: Histogram, name: str, arrays: Arrays) -> dict[str, Any]:
    """Add the indices and counts of the bins in use to ``arrays`` and return the other attributes."""
    index = np.flatnonzero(histogram.counts)
    arrays[name] = np.stack([index, histogram.counts[index]])
    return {key: getattr(histogram, key) for key in ("exponent", "low", "high", "total")}


def _unpack_histogram(values: dict[str, Any], bins: NDArray[Any]) -> Histogram:
    histogram = Histogram()
    index, counts = bins
    histogram.counts[index] = counts
    for key, value in values.items():
        setattr(histogram, key, value)
    return histogram
