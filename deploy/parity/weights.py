"""Find every weight of the model in the graph: identical, folded into a convolution (recomputed), or listed."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.support import onnx_file

Array = NDArray[Any]
_MAX_COINCIDENCE = 16
"""Constants with at most this many elements may match by chance, so they are no evidence of a lookup."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NormTensors:
    """A batch normalization in evaluation mode: ``gamma · (x - mean) / sqrt(var + eps) + beta``.

    Attributes:
        names: names of its tensors by role: ``mean``, ``var``, ``gamma``, ``beta``.
    """

    names: Mapping[str, str]
    eps: float


@dataclass(slots=True)
class WeightMatches:
    """Names of the model's tensors, by how they were found in the graph.

    Attributes:
        identical: a stored tensor has the same values, possibly transposed.
        folded: folded into a convolution; the result was recomputed and agrees.
        gathered: a stored tensor consists of its values, as a lookup at constant indices does.
        unused: the model does not read it.
        listed: not found.
    """

    identical: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    gathered: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the counts, and the names in ``listed`` and ``unused``."""
        counts = {key: len(getattr(self, key)) for key in ("identical", "folded", "gathered", "unused", "listed")}
        return {"counts": counts, "listed": self.listed, "unused": self.unused}


class _StoredTensors:
    """The stored tensors of a graph by name and by number of elements; read when they are compared."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors = {tensor.name: tensor for tensor in onnx_file.stored_tensors(onnx_file.load(path))}
        self._by_size: dict[int, list[str]] = defaultdict(list)
        self._cache: dict[str, Array] = {}
        for name, tensor in self._tensors.items():
            self._by_size[int(np.prod(tensor.dims, dtype=np.int64))].append(name)

    def get(self, name: str) -> Array:
        if name not in self._cache:
            self._cache[name] = onnx_file.array(self._tensors[name], self._path)
        return self._cache[name]

    def of_size(self, size: int, first: str = "") -> Iterator[tuple[str, Array]]:
        for name in sorted(self._by_size.get(size, ()), key=lambda name: name != first):
            yield name, self.get(name)

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        return ((name, self.get(name)) for name in self._tensors)


def match_weights(
    tensors: Mapping[str, Array], read: set[str], norms: list[NormTensors], path: Path, precision: str = "fp32"
) -> WeightMatches:
    """Find every tensor of the model in the graph, except those that no run of the model reads.

    The batch normalizations ``norms`` may be folded. ``fp16`` compares after rounding to float16.
    """
    stored = _StoredTensors(path)
    counters = {name for name in tensors if name.endswith("num_batches_tracked")}  # for training only
    result = WeightMatches(unused=sorted(set(tensors) - read - counters))
    half = precision == "fp16"
    with np.errstate(over="ignore"):
        values = {
            name: value.astype(np.float16) if half and value.dtype == np.float32 else value
            for name, value in tensors.items()
            if name in read
        }
    missing: list[str] = []
    for name, value in values.items():
        (result.identical if _identical(name, value, stored) else missing).append(name)
    folded = set(_folded(missing, values, norms, stored, half))
    for name in missing:
        if name in folded:
            result.folded.append(name)
        elif _gathered(values[name], stored):
            result.gathered.append(name)
        else:
            result.listed.append(name)
    return result


def _same(left: Array, right: Array) -> bool:
    if left.dtype != right.dtype:
        if left.dtype.kind != right.dtype.kind:
            return False
        right = right.astype(left.dtype)
    return np.array_equal(left.reshape(-1), right.reshape(-1)) or (
        left.ndim == 2 and np.array_equal(left.T.reshape(-1), right.reshape(-1))
    )


def _identical(name: str, value: Array, stored: _StoredTensors) -> bool:
    if any(_same(value, other) for _, other in stored.of_size(value.size, name)):
        return True
    if value.ndim and value.shape[0] % 3 == 0 and value.size > 3:  # query, key and value in one tensor
        thirds = np.split(value, 3)
        return all(any(_same(part, other) for _, other in stored.of_size(part.size)) for part in thirds)
    return False


def _folded(
    missing: list[str], values: Mapping[str, Array], norms: list[NormTensors], stored: _StoredTensors, half: bool
) -> Iterator[str]:
    """Yield names that were folded into the weight and bias of a convolution: the recomputed result agrees."""
    tolerance = 2e-3 if half else 2e-6
    pending = [norm for norm in norms if all(name in values for name in norm.names.values())]
    for name in missing:
        weight = values[name]
        if weight.ndim < 2:
            continue
        for norm, (_, actual) in itertools.product(pending, stored.of_size(weight.size, name)):
            affine = _affine(norm, values, weight, name)
            if affine is None or actual.shape != weight.shape:
                continue
            scale, shift = affine
            axis = 0 if scale.size == weight.shape[0] else 1
            if scale.size != weight.shape[axis]:
                continue
            wide = scale.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
            if not _close(actual, weight * wide, tolerance):
                continue
            biases = stored.of_size(shift.size)
            if not np.any(shift) or any(_close(bias, shift, tolerance * 8) for _, bias in biases):
                pending.remove(norm)
                yield name
                yield from norm.names.values()
                bias_name = f"{name.rpartition('.')[0]}.bias"
                if bias_name in values:
                    yield bias_name
                break


def _affine(norm: NormTensors, values: Mapping[str, Array], weight: Array, name: str) -> tuple[Array, Array] | None:
    """Return scale and shift that a batch normalization applies to the convolution before it, in float64."""
    part = {role: values[full].astype(np.float64) for role, full in norm.names.items()}
    if part["var"].size not in weight.shape[:2]:
        return None
    scale = part.get("gamma", np.ones(1)) / np.sqrt(part["var"] + norm.eps)
    bias = values.get(f"{name.rpartition('.')[0]}.bias")
    center = part["mean"] - (bias.astype(np.float64) if bias is not None and bias.size == scale.size else 0.0)
    return scale, part.get("beta", np.zeros(1)) - center * scale


def _close(actual: Array, expected: Array, tolerance: float) -> bool:
    limit = tolerance * float(np.max(np.abs(expected), initial=0.0))
    flat = actual.reshape(-1)
    return bool(flat.size == expected.size and np.max(np.abs(flat - expected.reshape(-1)), initial=0.0) <= limit)


def _gathered(value: Array, stored: _StoredTensors) -> bool:
    """Return whether a stored tensor consists of this tensor's values, as a lookup at constant indices does."""
    if value.size <= _MAX_COINCIDENCE:
        return False
    known = np.unique(value)
    for _, other in stored:
        if other.size > _MAX_COINCIDENCE and other.dtype == value.dtype and other.size >= value.size // 2:
            flat = other.reshape(-1)
            if (
                np.isin(flat[:64], known).all()
                and np.isin(flat, known).all()
                and np.unique(flat).size > _MAX_COINCIDENCE
            ):
                return True
    return False
