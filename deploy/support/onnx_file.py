"""Read untrusted ONNX files.

External data must be a regular file in the model's own folder: no absolute path, no ``..``, no symbolic or hard link,
and no offset or length outside the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from deploy.core.errors import ArtifactError
from deploy.core.tensors import TensorSpec

Array = NDArray[Any]

SINGLE_FILE_LIMIT = 2**31 - 2**20
"""Bytes of weights from which they go to a file of their own: protobuf's limit of 2 GB, less room for the graph."""


def load(path: Path) -> onnx.ModelProto:
    """Read a graph; external data is not read, but its location is checked.

    Raises:
        ArtifactError: the file is missing, truncated or not ONNX, or external data lies outside its folder.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait
        raise ArtifactError(f"{path}: not a file.")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: no such file.") from exc
    except (DecodeError, ValueError, OSError) as exc:
        raise ArtifactError(f"{path}: not a complete ONNX file: {exc}.") from exc
    if not model.graph.node or not model.opset_import:
        raise ArtifactError(f"{path}: not an ONNX model: no graph or no operator set.")
    for tensor in stored_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _external(tensor, path)
    return model


def input_output_specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a graph; a dynamic dimension without a name is ``TENSOR_dimN``."""
    graph = load(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = tuple(tensor_spec(value, path) for value in graph.input if value.name not in stored)
    return inputs, tuple(tensor_spec(value, path) for value in graph.output)


def tensor_spec(value: onnx.ValueInfoProto, path: Path, unnamed: str | None = None) -> TensorSpec:
    """Return the specification of a graph's input or output; ``path`` is for error messages.

    Dynamic dimensions without a name are called ``unnamed``, or ``TENSOR_dimN`` where it is None.
    """
    kind = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    except KeyError as exc:
        raise ArtifactError(f"{path}: {value.name!r} is not a tensor.") from exc
    shape = tuple(
        dim.dim_value or dim.dim_param or unnamed or f"{value.name}_dim{axis}"
        for axis, dim in enumerate(kind.shape.dim)
    )
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set; 0 if the graph does not use it."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, including those of branches, loops and functions."""
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def stored_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor with stored values: initializers and constants, with their names in the graph."""
    for graph in _graphs(model.graph):
        yield from graph.initializer
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                if node.op_type == "Constant" and not attribute.t.name:
                    attribute.t.name = node.output[0]
                yield attribute.t
            yield from attribute.tensors


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
        raise ArtifactError(f"{what}: {location!r} is missing or is not a regular file.")
    if data.stat().st_nlink > 1:
        raise ArtifactError(f"{what}: {location!r} has a hard link elsewhere.", "copy the file")
    expected = int(
        np.prod(tensor.dims, dtype=np.float64) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    )
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or expected)
    except ValueError as exc:
        raise ArtifactError(f"{what}: the offset or length is not a number.") from exc
    if offset < 0 or length != expected or offset + length > data.stat().st_size:
        raise ArtifactError(
            f"{what}: expected {expected} bytes within {location!r}, not bytes {offset} to {offset + length}."
        )
    return data, offset, length


def external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Return the files with external data of a graph that was read from ``path``."""
    tensors = [item for item in stored_tensors(model) if item.data_location == onnx.TensorProto.EXTERNAL]
    return sorted({_external(item, path)[0] for item in tensors})


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
        return np.memmap(data, dtype=dtype, mode="r", offset=offset, shape=tuple(tensor.dims))
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
