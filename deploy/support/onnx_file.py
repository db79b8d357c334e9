"""Read untrusted ONNX files.

Every tensor that the file contains is checked, wherever it is: in the graph, subgraphs, functions, sparse tensors,
training information. External data must be a regular file in the model's own folder: no absolute path, no ``..``, no
symbolic or hard link, and no offset or length outside the file.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from deploy.core.backend import LOW_MEMORY_BYTES
from deploy.core.errors import ArtifactError
from deploy.core.limits import how_to_raise, limits
from deploy.core.tensors import TensorSpec
from deploy.support.onnx_size import check_size

Array = NDArray[Any]

SINGLE_FILE_LIMIT = 2**31 - 2**20
"""Bytes of weights from which they go to a file of their own: protobuf's limit of 2 GB, less room for the graph."""

STANDARD = ("", "ai.onnx")
"""Names of the standard operators' domain."""


def load(path: Path) -> onnx.ModelProto:
    """Read a graph and check its size and its tensors; external data is not read.

    Raises:
        ArtifactError: the file is missing, truncated or not ONNX; it exceeds a limit; a tensor has no known type or not
            as many values as its shape says; or external data lies outside its folder.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait
        raise ArtifactError(f"{path}: not a file.")
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: no such file.") from exc
    except (DecodeError, ValueError, OSError) as exc:
        raise ArtifactError(f"{path}: not a complete ONNX file: {exc}.") from exc
    if not model.graph.node or not model.opset_import:
        raise ArtifactError(f"{path}: not an ONNX model: no graph or no operator set.")
    if any(item.version < 1 for item in model.opset_import if item.domain in STANDARD):
        raise ArtifactError(f"{path}: the version of the operator set is {opset(model)}.")
    if not model.graph.output:
        raise ArtifactError(f"{path}: the graph has no outputs.")
    check_size(model, path)
    for tensor in stored_tensors(model):
        _check_tensor(tensor, path)
    return model


def input_output_specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a graph; a dynamic dimension without a name is ``TENSOR_dimN``."""
    return specs_of(load(path), path)


def specs_of(model: onnx.ModelProto, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return what `input_output_specs` does, of a graph that was read from ``path``."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(tensor_spec(value, path) for value in model.graph.input if value.name not in stored)
    return inputs, tuple(tensor_spec(value, path) for value in model.graph.output)


def tensor_spec(value: onnx.ValueInfoProto, path: Path, unnamed: str | None = None) -> TensorSpec:
    """Return the specification of a graph's input or output; ``path`` is for error messages.

    Dynamic dimensions without a name are called ``unnamed``, or ``TENSOR_dimN`` where it is None.
    """
    kind = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    except KeyError as exc:
        raise ArtifactError(f"{path}: {value.name!r} is not a tensor of a known type.") from exc
    fixed = math.prod(dim.dim_value for dim in kind.shape.dim if dim.dim_value > 0)
    if fixed > limits().onnx_memory_bytes:
        raise ArtifactError(f"{path}: {value.name!r} has {fixed} elements.", how_to_raise("onnx_memory_bytes"))
    shape = tuple(
        max(dim.dim_value, 0) or dim.dim_param.strip("?") or unnamed or f"{value.name}_dim{axis}"
        for axis, dim in enumerate(kind.shape.dim)
    )
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set; 0 if the graph does not use it."""
    return next((item.version for item in model.opset_import if item.domain in STANDARD), 0)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, including those of branches, loops and functions."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from _with_subgraphs(nodes)


def _with_subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _with_subgraphs(graph.node)


def first_result(node: onnx.NodeProto) -> str:
    """Return the name of a node's first result, by which plans of precision name it."""
    return next(filter(None, node.output), node.name)


def names_read(node: onnx.NodeProto) -> list[str]:
    """Return the names of the tensors a node reads, including those its subgraphs read from the enclosing graph."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs):
            computed = {name for inner in graph.node for name in inner.output}
            local = computed | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            read = [name for inner in graph.node for name in names_read(inner)] + [item.name for item in graph.output]
            names.extend(name for name in read if name not in local)
    return names


def stored_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return every tensor with stored values anywhere in a file, constants with the names of their outputs."""
    for node in all_nodes(model):
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.HasField("t") and not attribute.t.name:
                    attribute.t.name = node.output[0]
    found: list[onnx.TensorProto] = []
    _collect_tensors(model, found)
    return found


def _collect_tensors(message: Message, found: list[onnx.TensorProto]) -> None:
    """Append the tensors within a message; protobuf limits the nesting."""
    if isinstance(message, onnx.TensorProto):
        found.append(message)
        return
    kind: Any = type(message)
    for name, single in _leading_to_tensors(kind):
        if not single:
            for item in getattr(message, name):
                _collect_tensors(item, found)
        elif message.HasField(name):
            _collect_tensors(getattr(message, name), found)


@cache
def _leading_to_tensors(kind: Any) -> list[tuple[str, bool]]:
    """Return the fields of a type of message that may contain tensors, each with whether it is a single message."""

    def reaches(descriptor: Any, seen: set[str]) -> bool:
        if descriptor.full_name == onnx.TensorProto.DESCRIPTOR.full_name:
            return True
        seen.add(descriptor.full_name)
        inner = [item.message_type for item in descriptor.fields if item.message_type]
        return any(reaches(item, seen) for item in inner if item.full_name not in seen)

    names = [item.name for item in kind.DESCRIPTOR.fields if item.message_type and reaches(item.message_type, set())]
    return [(name, isinstance(getattr(kind(), name), Message)) for name in names]


_PACKED = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""Bits of the element types that share bytes."""
_VALUES = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


@cache
def _bits(data_type: int) -> int | None:
    """Return the bits of one element; None for a type that is not known."""
    try:
        name = onnx.TensorProto.DataType.Name(data_type)
        size = int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    except (KeyError, ValueError):
        return None
    return _PACKED.get(name, 8 * size)


def element_bytes(data_type: int) -> int:
    """Return the size of one element in whole bytes; that of float32 for an unknown type."""
    return max(1, (_bits(data_type) or 32) // 8)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Return the size of a tensor's values in bytes."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(item) for item in tensor.string_data)
    return -(-math.prod(map(int, tensor.dims)) * (_bits(tensor.data_type) or 0) // 8)


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    what = f"{path}: tensor {tensor.name!r}"
    if _bits(tensor.data_type) is None:
        raise ArtifactError(f"{what} has the unknown element type {tensor.data_type}.")
    if any(size < 0 for size in tensor.dims):
        raise ArtifactError(f"{what} has a negative dimension.")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _external(tensor, path)
        return
    if tensor.HasField("raw_data"):
        complete = len(tensor.raw_data) == tensor_bytes(tensor) and tensor.data_type != onnx.TensorProto.STRING
    else:  # up to four elements share one entry, and one complex element has two
        stored = sum(len(getattr(tensor, name)) for name in _VALUES)
        complete = math.prod(tensor.dims) <= 4 * stored
    if not complete:
        raise ArtifactError(f"{what} does not have as many values as its shape {list(tensor.dims)} says.")


def _external(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int]:
    """Return the file, offset and length in bytes of a tensor's external data."""
    entries = {item.key: item.value for item in tensor.external_data}
    what = f"{path}: external data of tensor {tensor.name!r}"
    location = entries.get("location", "")
    pure = PurePosixPath(location)
    if not location or "\\" in location or pure.is_absolute() or ".." in pure.parts or len(pure.parts) != 1:
        raise ArtifactError(f"{what}: {location!r} is outside the model's folder.")
    unknown = set(entries) - {"location", "offset", "length", "checksum"}
    if unknown:
        raise ArtifactError(f"{what}: unknown entries {', '.join(sorted(unknown))}.")
    data = path.parent / location
    if data.is_symlink() or not data.is_file():
        raise ArtifactError(
            f"{what}: {location!r} is missing or is not a regular file.", f"copy {location} to {path.parent}"
        )
    if data.stat().st_nlink > 1:
        raise ArtifactError(f"{what}: {location!r} has a hard link elsewhere.", "copy the file")
    if tensor.data_type == onnx.TensorProto.STRING:
        raise ArtifactError(f"{what}: strings cannot be external.")
    expected = tensor_bytes(tensor)
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or expected)
    except ValueError as exc:
        raise ArtifactError(f"{what}: the offset or length is not a number.") from exc
    if offset < 0 or length != expected or offset + length > data.stat().st_size:
        raise ArtifactError(
            f"{what}: expected {expected} bytes within {location!r}, not bytes {offset} to {offset + length}."
        )
    return data, offset, length


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the size of all stored tensors in bytes."""
    return sum(map(tensor_bytes, stored_tensors(model)))


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph; from `SINGLE_FILE_LIMIT` bytes, its weights leave the message and go to ``<path>.data``."""
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    external = weight_bytes(model) >= SINGLE_FILE_LIMIT
    onnx.save(model, str(path), save_as_external_data=external, location=data.name if external else None)


def is_large(path: Path) -> bool:
    """Return whether a file, with its external data, is to be opened with one copy of its weights."""
    size = path.stat().st_size
    if size < LOW_MEMORY_BYTES and path.suffix == ".onnx":
        size += sum(item.stat().st_size for item in external_files(load(path), path))
    return size >= LOW_MEMORY_BYTES


def external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Return the files with external data of a graph that was read from ``path``."""
    tensors = [item for item in stored_tensors(model) if item.data_location == onnx.TensorProto.EXTERNAL]
    return sorted({_external(item, path)[0] for item in tensors})


def copy_external_files(model: onnx.ModelProto, path: Path, folder: Path) -> None:
    """Copy the files with external data of a graph that was read from ``path`` into a folder, if they are not there."""
    for beside in external_files(model, path):
        if not (folder / beside.name).exists():
            shutil.copyfile(beside, folder / beside.name)


def unknown_operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators that neither ONNX nor ONNX Runtime defines, ``domain:name``, each once."""
    own = {(item.domain, item.name) for item in model.functions}
    found = dict.fromkeys((node.domain, node.op_type) for node in all_nodes(model))
    return [
        f"{domain}:{name}" if domain else name
        for domain, name in found
        if (domain, name) not in own and not domain.startswith("com.microsoft") and not _defined(domain, name)
    ]


def _defined(domain: str, name: str) -> bool:
    return bool(onnx.defs.has(name, "" if domain in STANDARD else domain))


_INTEGER = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QGemm"}
_INTEGER_PREFIXES = ("QLinear", "DynamicQuantize", "MatMulNBits")
"""Operators of a quantized graph, by their names and by the beginnings of their names."""
_FP8 = {onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT8E5M2}
_FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
}


def precision(model: onnx.ModelProto) -> str:
    """Return ``int8`` or ``fp8`` for a quantized graph, else ``fp32``, ``fp16``, ``bf16`` or ``fp64``.

    It is what most bytes of the weights are. Without weights, the inputs decide.
    """
    for node in all_nodes(model):
        if node.op_type in _INTEGER or node.op_type.startswith(_INTEGER_PREFIXES):
            return "fp8" if any(tensor.data_type in _FP8 for tensor in stored_tensors(model)) else "int8"
    sizes: Counter[int] = Counter()
    for tensor in stored_tensors(model):
        sizes[tensor.data_type] += tensor_bytes(tensor) if tensor.data_type in _FLOATS else 0
    if not any(sizes.values()):
        sizes.update(value.type.tensor_type.elem_type for value in model.graph.input)
    found = [kind for kind, _ in sizes.most_common() if kind in _FLOATS]
    return _FLOATS[found[0]] if found else "fp32"


def array(tensor: onnx.TensorProto, path: Path) -> Array:
    """Return the values of a stored tensor of the graph in ``path``; external data is memory-mapped.

    Raises:
        ArtifactError: the values are damaged.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        data, offset, length = _external(tensor, path)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if length == 0:
            return np.zeros(tuple(tensor.dims), dtype)
        if (_bits(tensor.data_type) or 8) >= 8:
            return np.memmap(data, dtype=dtype, mode="r", offset=offset, shape=tuple(tensor.dims))
        packed = np.memmap(data, dtype=np.uint8, mode="r", offset=offset, shape=(length,)).tobytes()
        tensor = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=packed)
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, RuntimeError) as exc:
        raise ArtifactError(f"{path}: tensor {tensor.name!r} is damaged: {exc}.") from exc


def check(path: Path) -> None:
    """Check a file against the ONNX specification; call `load` first, which checks its external data.

    Raises:
        ArtifactError: the model is invalid.
    """
    try:
        onnx.checker.check_model(str(path))
    except Exception as exc:
        text = str(exc).strip().splitlines()
        raise ArtifactError(f"{path}: not a valid ONNX model: {text[0][:300] if text else type(exc).__name__}") from exc
