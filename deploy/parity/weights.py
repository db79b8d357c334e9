"""Find every weight of the model in the graph: identical, folded, computed from weights alone, or listed."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from deploy.support import onnx_file

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]
Constant = tuple[frozenset[str], Array]
"""Values that the model computes from weights alone, and the names of these weights."""


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
        computed: a stored tensor is what the model computes from weights alone, such as a lookup at constant indices.
        unused: the model does not read it.
        listed: not found.
        faults: lookup tables of the graph whose rows differ from the model's, and tensors of which single values do.
    """

    identical: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the counts, and the names in ``listed`` and ``unused``."""
        counts = {key: len(getattr(self, key)) for key in ("identical", "folded", "computed", "unused", "listed")}
        return {"counts": counts, "listed": self.listed, "unused": self.unused}


class _StoredTensors:
    """The stored tensors of a graph by name and by number of elements; read when they are compared."""

    def __init__(self, model: onnx.ModelProto, path: Path, precision: str) -> None:
        self._path, self._precision = path, "bf16" if precision == "bf16" else ""
        self._tensors = {tensor.name: tensor for tensor in onnx_file.stored_tensors(model)}
        gathers = (node for node in onnx_file.all_nodes(model) if node.op_type == "Gather")
        self.tables = [node.input[0] for node in gathers if node.input[0] in self._tensors]
        self._by_size: dict[int, list[str]] = defaultdict(list)
        self._cache: dict[str, Array] = {}
        for name, tensor in self._tensors.items():
            self._by_size[int(np.prod(tensor.dims, dtype=np.int64))].append(name)

    def get(self, name: str) -> Array:
        if name not in self._cache:
            self._cache[name] = rounded(onnx_file.array(self._tensors[name], self._path), self._precision)
        return self._cache[name]

    def of_size(self, size: int, first: str = "") -> Iterator[tuple[str, Array]]:
        for name in sorted(self._by_size.get(size, ()), key=lambda name: name != first):
            yield name, self.get(name)


CHANGED = 1e-4
"""Smallest change of a value that no rounding explains, as a share of the largest value of its tensor."""
TOLERANCE = {"fp16": 2e-3, "bf16": 2e-2}
"""Difference of a folded tensor from one that is computed again, as a share of its largest value; 2e-6 otherwise."""


def match_weights(
    tensors: Mapping[str, Array],
    read: set[str],
    norms: list[NormTensors],
    graph: onnx.ModelProto,
    path: Path,
    precision: str = "fp32",
    constants: Callable[[], Sequence[Constant]] = tuple,
) -> WeightMatches:
    """Find every tensor of the model in the graph, except those that no run of the model reads.

    ``graph`` was read from ``path``. The batch normalizations ``norms`` may be folded. ``fp16`` and ``bf16`` compare
    after rounding. ``constants`` is called where a tensor was not found, and returns what the model computes from
    weights alone.
    """
    stored = _StoredTensors(graph, path, precision)
    counters = {name for name in tensors if name.endswith("num_batches_tracked")}  # for training only
    result = WeightMatches(unused=sorted(set(tensors) - read - counters))
    values = {name: rounded(value, precision) for name, value in tensors.items() if name in read}
    missing: list[str] = []
    for name, value in values.items():
        (result.identical if _identical(name, value, stored) else missing).append(name)
    folded = set(_folded(missing, values, norms, stored, precision))
    result.folded = [name for name in missing if name in folded]
    missing = [name for name in missing if name not in folded]
    computed = set(_computed(constants(), stored, precision)) if missing else set()
    result.computed = [name for name in missing if name in computed]
    result.listed = [name for name in missing if name not in computed]
    result.faults = [fault for name in result.listed for fault in _table_faults(name, values[name], stored)]
    if precision in ("fp32", "fp64"):  # in half precision, every value is rounded
        result.faults += [fault for name in result.listed for fault in _single_values(name, values, stored)]
    return result


def rounded(value: Array, precision: str) -> Array:
    """Round float32 values to float16, or to bfloat16, which NumPy lacks, as float32."""
    if precision == "bf16" and value.dtype in (np.float32, ml_dtypes.bfloat16):
        return value.astype(ml_dtypes.bfloat16).astype(np.float32)
    with np.errstate(over="ignore"):
        return value.astype(np.float16) if precision == "fp16" and value.dtype == np.float32 else value


def _same(left: Array, right: Array) -> bool:
    if left.dtype != right.dtype:
        if left.dtype.kind != right.dtype.kind:
            return False
        right = right.astype(left.dtype)
    if left.size and (left.flat[0] != right.flat[0] or left.flat[-1] != right.flat[-1]):
        return False  # also of the transposed one, and much faster
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
    missing: list[str], values: Mapping[str, Array], norms: list[NormTensors], stored: _StoredTensors, precision: str
) -> Iterator[str]:
    """Yield names that were folded into the weight and bias of a convolution: the recomputed result agrees."""
    tolerance = TOLERANCE.get(precision, 2e-6)
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


def _computed(constants: Sequence[Constant], stored: _StoredTensors, precision: str) -> Iterator[str]:
    """Yield the names of weights from which the model computes a stored tensor."""
    tolerance = TOLERANCE.get(precision, 2e-6)
    for names, value in constants:
        if any(
            _close(other, value, tolerance) or (value.ndim == 2 and _close(other, value.T, tolerance))
            for _, other in stored.of_size(value.size)
            if other.dtype.kind == value.dtype.kind
        ):
            yield from names


def _table_faults(name: str, value: Array, stored: _StoredTensors) -> Iterator[str]:
    """Yield a fault if a lookup table of the graph is this weight with other rows, or with fewer."""
    if value.ndim < 2:
        return
    best, table = 0, None
    for other in (stored.get(item) for item in dict.fromkeys(stored.tables)):
        if other.shape[1:] == value.shape[1:] and other.dtype.kind == value.dtype.kind:
            rows = min(len(other), len(value))
            axes = tuple(range(1, value.ndim))
            equal = int(np.count_nonzero((other[:rows] == value[:rows]).all(axis=axes)))
            if equal > best:
                best, table = equal, other
    if table is None:
        return
    if len(table) < len(value):
        yield f"the table {name!r} has {len(table)} rows in the file instead of {len(value)}"
    elif best < len(value):
        differ = (table[: len(value)] != value).any(axis=tuple(range(1, value.ndim)))
        first = int(np.argmax(differ))
        yield f"{len(value) - best} of {len(value)} rows of the table {name!r} differ, the first is row {first}"


def _single_values(name: str, values: Mapping[str, Array], stored: _StoredTensors) -> Iterator[str]:
    """Yield a fault if a tensor of the graph is this weight with some values changed.

    Folding scales whole slices of a weight: the channels of one axis, or of several. If most values are the model's
    to the bit, and a changed one is in no slice that is changed as a whole, then nothing was folded.
    """
    value = values[name]
    if value.ndim < 2 or value.dtype.kind != "f":
        return
    best, table = value.size // 2, None
    for _, other in stored.of_size(value.size, name):
        if other.shape != value.shape or other.dtype != value.dtype:
            continue
        equal = int(np.count_nonzero((other == value) & (value != 0)))
        if equal > best and not any(_same(other, known) for known in values.values() if known.size == other.size):
            best, table = equal, other
    if table is None:
        return
    kept = (table == value) & (value != 0)
    changed = np.abs(table.astype(np.float64) - value) > CHANGED * np.abs(value).max()
    for axis in range(value.ndim):
        rest = tuple(other for other in range(value.ndim) if other != axis)
        changed &= kept.any(axis=rest, keepdims=True)
    count = int(changed.sum())
    if count:
        first = [int(index) for index in np.unravel_index(int(np.argmax(changed)), changed.shape)]
        yield f"{count} of {value.size} values of {name!r} differ, the first is {first}"
