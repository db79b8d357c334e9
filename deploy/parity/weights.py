"""Every weight of the model, found again in the graph: identical, folded (and the algebra checked), or listed."""

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
_SMALL = 16
"""Integer or scalar constants up to this size are found by chance; they prove nothing either way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NormTensors:
    """A batch normalization in evaluation mode: ``gamma · (x - mean) / sqrt(var + eps) + beta``; names by role."""

    prefix: str
    names: Mapping[str, str]
    eps: float


@dataclass(slots=True)
class Accounts:
    """Names of the model's tensors by what became of them."""

    identical: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    gathered: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Counts, and the names that need a look."""
        counts = {key: len(getattr(self, key)) for key in ("identical", "folded", "gathered", "unused", "listed")}
        return {"counts": counts, "listed": self.listed, "unused": self.unused}


class _Stored:
    """The graph's stored tensors by name and by number of elements, read when they are compared."""

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
        names = sorted(self._by_size.get(size, ()), key=lambda name: name != first)
        for name in names:
            yield name, self.get(name)

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        return ((name, self.get(name)) for name in self._tensors)


def account(
    tensors: Mapping[str, Array], read: set[str], norms: list[NormTensors], path: Path, precision: str = "fp32"
) -> Accounts:
    """Find every tensor of the model in the graph.

    Args:
        tensors: parameters and buffers by name; not copied.
        read: the names that a run of the model reads; the others are unused, and need not be there.
        norms: the model's batch normalizations, to check foldings against.
        path: the ONNX file.
        precision: ``fp16`` compares after rounding to half.

    Returns:
        What became of each.

    Raises:
        ArtifactError: the file is damaged.
    """
    stored = _Stored(path)
    counters = {name for name in tensors if name.endswith("num_batches_tracked")}  # of training, never of inference
    result = Accounts(unused=sorted(set(tensors) - read - counters))
    half = precision == "fp16"
    values = {name: _rounded(value, half) for name, value in tensors.items() if name in read}
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


def _rounded(value: Array, half: bool) -> Array:
    if half and value.dtype == np.float32:
        with np.errstate(over="ignore"):
            return value.astype(np.float16)
    return value


def _same(left: Array, right: Array) -> bool:
    if left.dtype != right.dtype:
        if left.dtype.kind != right.dtype.kind:
            return False
        right = right.astype(left.dtype)
    return np.array_equal(left.reshape(-1), right.reshape(-1)) or (
        left.ndim == 2 and np.array_equal(left.T.reshape(-1), right.reshape(-1))
    )


def _identical(name: str, value: Array, stored: _Stored) -> bool:
    if any(_same(value, found) for _, found in stored.of_size(value.size, name)):
        return True
    if value.ndim and value.shape[0] % 3 == 0 and value.size > 3:  # query, key and value in one tensor
        thirds = np.split(value, 3)
        return all(any(_same(part, found) for _, found in stored.of_size(part.size)) for part in thirds)
    return False


def _folded(
    missing: list[str], values: Mapping[str, Array], norms: list[NormTensors], stored: _Stored, half: bool
) -> Iterator[str]:
    """Names whose folding into a convolution's weight and bias was recomputed and agrees."""
    tolerance = 2e-3 if half else 2e-6
    pending = [norm for norm in norms if all(name in values for name in norm.names.values())]
    for name in missing:
        weight = values[name]
        if weight.ndim < 2:
            continue
        for norm, (_, found) in itertools.product(pending, stored.of_size(weight.size, name)):
            scale, shift = _affine(norm, values, weight, name)
            if scale is None or found.shape != weight.shape:
                continue
            axis = 0 if scale.size == weight.shape[0] else 1
            if scale.size != weight.shape[axis]:
                continue
            wide = scale.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
            if not _close(found, weight * wide, tolerance):
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


def _affine(norm: NormTensors, values: Mapping[str, Array], weight: Array, name: str) -> tuple[Array | None, Array]:
    """Scale and shift that a batch normalization puts on the convolution before it, in float64."""
    part = {role: values[full].astype(np.float64) for role, full in norm.names.items()}
    if part["var"].size not in weight.shape[:2]:
        return None, np.empty(0)
    scale = part.get("gamma", np.ones(1)) / np.sqrt(part["var"] + norm.eps)
    bias = values.get(f"{name.rpartition('.')[0]}.bias")
    center = part["mean"] - (bias.astype(np.float64) if bias is not None and bias.size == scale.size else 0.0)
    return scale, part.get("beta", np.zeros(1)) - center * scale


def _close(found: Array, expected: Array, tolerance: float) -> bool:
    limit = tolerance * float(np.max(np.abs(expected), initial=0.0))
    flat = found.reshape(-1)
    return bool(flat.size == expected.size and np.max(np.abs(flat - expected.reshape(-1)), initial=0.0) <= limit)


def _gathered(value: Array, stored: _Stored) -> bool:
    """Whether some stored tensor is made of this one's values, as a look-up at constant indices is."""
    if value.size <= _SMALL:
        return False
    known = np.unique(value)
    for _, found in stored:
        if found.size > _SMALL and found.dtype == value.dtype and found.size >= value.size // 2:
            flat = found.reshape(-1)
            if np.isin(flat[:64], known).all() and np.isin(flat, known).all() and np.unique(flat).size > _SMALL:
                return True
    return False
