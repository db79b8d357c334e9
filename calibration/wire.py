"""Observations between two processes: plain values and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.collecting import Observation, Observations
from calibration.histogram import Histogram

Arrays = dict[str, NDArray[Any]]


def pack(found: Observations) -> tuple[dict[str, Any], Arrays]:
    """As plain values, and arrays by the place of their tensor."""
    arrays: Arrays = {}
    tensors: dict[str, Any] = {}
    for place, (name, item) in enumerate(found.tensors.items()):
        early = None if item.early is None else _packed(item.early, f"{place}:early", arrays)
        tensors[name] = {"all": _packed(item.all, f"{place}:all", arrays), "early": early}
        if item.channels is not None:
            arrays[f"{place}:channels"] = item.channels
    return {"tensors": tensors, "shared": dict(found.shared), "samples": found.samples}, arrays


def unpack(plain: dict[str, Any], arrays: Arrays) -> Observations:
    """The inverse of `pack`."""
    tensors = {}
    for place, (name, item) in enumerate(plain["tensors"].items()):
        early = None if item["early"] is None else _unpacked(item["early"], f"{place}:early", arrays)
        whole = _unpacked(item["all"], f"{place}:all", arrays)
        tensors[name] = Observation(all=whole, early=early, channels=arrays.get(f"{place}:channels"))
    return Observations(tensors=tensors, shared=plain["shared"], samples=plain["samples"])


def _packed(histogram: Histogram, name: str, arrays: Arrays) -> dict[str, Any]:
    """Only the bins that hold something."""
    index = np.flatnonzero(histogram.counts)
    arrays[name] = np.stack([index, histogram.counts[index]])
    return {key: getattr(histogram, key) for key in ("exponent", "low", "high", "total")}


def _unpacked(plain: dict[str, Any], name: str, arrays: Arrays) -> Histogram:
    histogram = Histogram()
    index, counts = arrays[name]
    histogram.counts[index] = counts
    for key, value in plain.items():
        setattr(histogram, key, value)
    return histogram
