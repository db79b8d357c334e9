"""Graphs of old operator sets and in half precision, lifted to what the other modules read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from deploy.core.errors import ArtifactError
from deploy.support import onnx_file
from deploy.support.runtime_errors import first_line

MIN_OPSET = 13
"""The first operator set with a scale for each channel."""

NEW_OPSET = 17
"""The operator set to which an older graph is lifted."""

_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def lift(model: onnx.ModelProto, path: Path, folder: Path) -> Path:
    """Return the file of a float32 graph of operator set 13 or later: the given one, or another one in ``folder``.

    ``model`` is the graph of ``path``, which is changed. Weights in half precision are widened, which is exact, and so
    is the arithmetic; inputs and outputs keep their types.

    Raises:
        ArtifactError: ONNX's version converter does not support an operator of the graph.
    """
    tensors = [tensor for tensor in onnx_file.stored_tensors(model) if tensor.data_type in _HALVES]
    casts = any(_half_attribute(node) is not None for node in onnx_file.all_nodes(model))
    old = onnx_file.opset(model) < MIN_OPSET
    if not (tensors or casts or old):
        return path
    for tensor in tensors:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx_file.array(tensor, path).astype(np.float32), tensor.name))
    onnx.load_external_data_for_model(model, str(path.parent))
    if tensors or casts:
        _widen(model)
    if old:
        try:
            model = onnx.version_converter.convert_version(model, NEW_OPSET)
        except Exception as exc:  # whatever it raises for an operator that it does not know
            raise ArtifactError(
                f"{path}: opset {onnx_file.opset(model)} does not support per-channel scales, and the graph cannot be "
                f"lifted to opset {NEW_OPSET}: {first_line(exc)}",
                "deploy export MODEL --opset 20",
            ) from exc
    lifted = folder / "lifted.onnx"
    onnx_file.save(model, lifted)
    return lifted


def _half_attribute(node: onnx.NodeProto) -> onnx.AttributeProto | None:
    """Return the attribute that makes the result of a node half precision; None if there is none."""
    return next((item for item in node.attribute if item.name in ("to", "dtype") and item.i in _HALVES), None)


def _widen(model: onnx.ModelProto) -> None:
    """Compute in float32 what was computed in half precision, in place."""
    for node in onnx_file.all_nodes(model):
        attribute = _half_attribute(node)
        if attribute is not None:
            attribute.i = onnx.TensorProto.FLOAT
        for item in node.attribute:
            for inner in (*([item.g] if item.HasField("g") else ()), *item.graphs):
                del inner.value_info[:]
                for value in (*inner.input, *inner.output):
                    if value.type.tensor_type.elem_type in _HALVES:
                        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    graph = model.graph
    del graph.value_info[:]
    for value in graph.input:
        if value.type.tensor_type.elem_type in _HALVES:
            wide = f"{value.name}_wide"
            _rename(graph, value.name, wide)
            graph.node.insert(0, onnx.helper.make_node("Cast", [value.name], [wide], wide, to=onnx.TensorProto.FLOAT))
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        if kind in _HALVES:
            wide = f"{value.name}_unrounded"
            _rename(graph, value.name, wide)
            graph.node.append(onnx.helper.make_node("Cast", [wide], [value.name], wide, to=kind))


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor in the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [new if name == old else name for name in side]
        for item in node.attribute:
            for inner in (*([item.g] if item.HasField("g") else ()), *item.graphs):
                _rename(inner, old, new)
                for value in inner.output:
                    value.name = new if value.name == old else value.name
