"""A float graph made ready: one that can be observed and rounded, and computes what it did."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from deploy.core.errors import ArtifactError
from deploy.support import onnx_file

Array = NDArray[Any]

OLDEST_OPSET = 13
"""The first with a scale for each channel."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose arithmetic eight bits make faster."""

SAME_VALUES = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather", "Dropout",
    "DepthToSpace", "SpaceToDepth",
)  # fmt: skip
"""Operators whose outputs hold nothing but values of their first input."""


def prepare(path: Path) -> onnx.ModelProto:
    """Read a float32 graph, with batch normalizations folded, constants computed and every shape inferred.

    ONNX Runtime's basic optimizations do the folding; they keep to standard operators.

    Raises:
        ArtifactError: it is damaged, already quantized, in half precision, of an opset before 13, or a weight in it
            is not finite.
    """
    model = onnx_file.load(path)
    _refuse(model, path)
    _refuse_broken(model, path)
    with tempfile.TemporaryDirectory(prefix="deploy-calibration-") as folder:
        optimized = Path(folder) / "prepared.onnx"
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(optimized)
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "prepared.data")
        settings.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        try:
            ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
            prepared = onnx.load(str(optimized))
        except Exception as exc:
            onnx_file.check(path)
            reason = str(exc).strip().splitlines()[0][:300]
            raise ArtifactError(f"{path}: ONNX Runtime cannot prepare it: {reason}") from exc
    _pool_means(prepared)
    _name_nodes(prepared)
    _forget_domains(prepared)
    return with_shapes(prepared)


_LARGE = 1 << 12
"""Bytes from which on a stored tensor says nothing of shapes: weights, not axes."""


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, its shapes inferred; large weights are set aside meanwhile, for inference copies them twice."""
    aside = {item.name: item.raw_data for item in model.graph.initializer if len(item.raw_data) >= _LARGE}
    for item in model.graph.initializer:
        if item.name in aside:
            item.ClearField("raw_data")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    finally:
        for item in model.graph.initializer:
            if item.name in aside:
                item.raw_data = aside[item.name]
    del model.graph.value_info[:], model.graph.output[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    model.graph.output.extend(inferred.graph.output)
    return model


def _refuse(model: onnx.ModelProto, path: Path) -> None:
    kinds = {node.op_type for node in onnx_file.all_nodes(model)}
    if kinds & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}:
        raise ArtifactError(f"{path}: it is quantized already.", "give the float export that it was made from")
    if opset(model) < OLDEST_OPSET:
        raise ArtifactError(
            f"{path}: opset {opset(model)} has no scale for each channel; {OLDEST_OPSET} is the first that has.",
            "export the model again",
        )
    halves = [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    if halves:
        raise ArtifactError(f"{path}: its weights are float16 ({halves[0]}).", "quantize the float32 export")
    if not any(node.op_type in WEIGHTED for node in model.graph.node):
        raise ArtifactError(f"{path}: it has no {', '.join(WEIGHTED)}: nothing that eight bits make faster.")


def _refuse_broken(model: onnx.ModelProto, path: Path) -> None:
    """A weight that is not finite has no scale; elsewhere, as in a mask, an infinity has its use."""
    stored = initializers(model)
    nodes = [node for node in model.graph.node if node.op_type in (*WEIGHTED, "BatchNormalization")]
    for name in dict.fromkeys(name for node in nodes for name in node.input[1:] if name in stored):
        values = onnx_file.array(stored[name], path)
        count = int(values.size - np.isfinite(values).sum()) if values.dtype.kind == "f" else 0
        if count:
            raise ArtifactError(f"{path}: tensor {name!r} holds {count} values that are not finite.")


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set; 0 where there is none."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Stored tensors by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value, or ``default``."""
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Element type and shape of every tensor for which they are known."""
    graph = model.graph
    return {
        value.name: value.type.tensor_type
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.HasField("tensor_type")
    }


def elements(kind: onnx.TypeProto.Tensor) -> int:
    """Values in a tensor, each unknown dimension counted as one."""
    return int(np.prod([max(dim.dim_value, 1) for dim in kind.shape.dim], dtype=np.int64))


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def _pool_means(model: onnx.ModelProto) -> None:
    """A mean over all positions is a global average pool, for which runtimes have eight-bit code."""
    stored = initializers(model)
    ranks = {name: len(kind.shape.dim) for name, kind in types(with_shapes(model)).items()}
    for index in reversed(range(len(model.graph.node))):
        node = model.graph.node[index]
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != 4:
            continue
        axes = attribute(node, "axes")
        if axes is None and len(node.input) > 1 and node.input[1] in stored:
            axes = onnx.numpy_helper.to_array(stored[node.input[1]]).tolist()
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        if not attribute(node, "keepdims", 1):
            pooled = f"{node.output[0]}_pooled"
            flatten = onnx.helper.make_node("Flatten", [pooled], [node.output[0]], axis=1)
            model.graph.node.insert(index + 1, flatten)
            node.output[0] = pooled
        node.op_type = "GlobalAveragePool"
        del node.attribute[:], node.input[1:]


def _name_nodes(model: onnx.ModelProto) -> None:
    """Every node gets a name of its own: the quantizer tells nodes apart by it."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)


def _forget_domains(model: onnx.ModelProto) -> None:
    """Drop the operator sets that no node is of; ONNX Runtime lists all it knows."""
    used = {node.domain for node in onnx_file.all_nodes(model)} | {"", "ai.onnx"}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
