"""Float graphs: preparation for calibration, and what the other modules read of their structure."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from calibration.lift import lift
from deploy.core.backend import LOW_MEMORY_BYTES
from deploy.core.errors import ArtifactError
from deploy.support import onnx_file
from deploy.support.runtime_errors import first_line

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with weights, which run faster in INT8."""

CLIPPING = ("Relu", "Clip")
"""Activations that INT8 runtimes fuse into the preceding operator, so that only values they pass are represented."""

FLOATS = (
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE,
)  # fmt: skip
"""Types whose values are rounded."""

ORDERS = ("TopK", "ArgMax", "ArgMin", "NonMaxSuppression")
"""Operators that choose among many values, such as candidates by their scores."""

SAME_VALUES = (
    "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather", "Dropout",
    "DepthToSpace", "SpaceToDepth",
)  # fmt: skip
"""Operators whose outputs contain only values of their first input."""

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)

_SHAPES = ("Shape", "Size")
"""Operators that read the shape of their input alone."""

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
_LARGE_BYTES = 1 << 12
"""Stored tensors of this size are weights, whose values do not affect shape inference."""


def prepare(path: Path) -> onnx.ModelProto:
    """Read a graph with batch normalizations folded, constants computed and all shapes inferred.

    ONNX Runtime's basic optimizations do the folding; they produce standard operators only. Graphs of old operator sets
    and in half precision are lifted, see `calibration.lift.lift`.

    Raises:
        ArtifactError: the file is damaged, already quantized, or of an opset that cannot be lifted to 13, or a weight
            is not finite.
    """
    with tempfile.TemporaryDirectory(prefix="deploy-calibration-") as folder:
        return onnx.load(str(prepare_in(Path(folder), path)))


def prepare_in(folder: Path, path: Path) -> Path:
    """Write the graph that `prepare` returns to a folder, weights as external data, and return the file.

    The weights are in memory once, or not at all where those of ``path`` are external data, which is mapped.
    """
    model = onnx_file.load(path)
    _check_quantizable(model, path)
    _check_weights(model, path)
    source = lift(model, path, folder)
    optimized = folder / "prepared.onnx"
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(optimized)
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.disable_prepacking", "1")
    settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "prepared.data")
    settings.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        ort.InferenceSession(str(source), settings, providers=["CPUExecutionProvider"])
        prepared = onnx.load(str(optimized), load_external_data=False)
    except Exception as exc:
        onnx_file.check(path)
        raise ArtifactError(f"{path}: ONNX Runtime cannot optimize the graph: {first_line(exc)}") from exc
    _pool_means(prepared)
    _name_nodes(prepared)
    _drop_unused_opsets(prepared)
    onnx.save(infer_shapes(prepared), str(optimized))
    return optimized


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer the shapes of a graph in place and return it; large weights are left out, since inference copies them."""
    weights = {item.name: item.raw_data for item in model.graph.initializer if len(item.raw_data) >= _LARGE_BYTES}
    for item in model.graph.initializer:
        if item.name in weights:
            item.ClearField("raw_data")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    finally:
        for item in model.graph.initializer:
            if item.name in weights:
                item.raw_data = weights[item.name]
    del model.graph.value_info[:], model.graph.output[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    model.graph.output.extend(inferred.graph.output)
    return model


def tensors_to_observe(model: onnx.ModelProto) -> tuple[list[str], dict[str, str]]:
    """Divide the float activations of a prepared graph into tensors to observe and tensors that share a range.

    A tensor shares the range of another one that contains the same values, or of the clipping activation that is its
    only consumer.

    Returns:
        The tensors to observe, in execution order; and for each other tensor the observed one whose range it uses.
    """
    stored, types, readers = initializers(model), tensor_types(model), consumers(model)
    outputs = {value.name for value in model.graph.output}

    def is_float_activation(name: str) -> bool:
        return name in types and types[name].elem_type == onnx.TensorProto.FLOAT and name not in stored

    observed = [value.name for value in model.graph.input if is_float_activation(value.name)]
    shared: dict[str, str] = {}
    for node in model.graph.node:
        for name in filter(is_float_activation, node.output):
            nodes = readers.get(name, [])
            if node.op_type in SAME_VALUES and is_float_activation(node.input[0]):
                shared[name] = node.input[0]
            elif len(nodes) == 1 and nodes[0].op_type in CLIPPING and name not in outputs:
                shared[name] = nodes[0].output[0]
            else:
                observed.append(name)

    def root(name: str) -> str:
        while name in shared:
            name = shared[name]
        return name

    return observed, {name: root(name) for name in shared}


def tail(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes behind the last layers with weights, without activations that these absorb.

    Nodes that depend on no input are left out.
    """
    dependent = depends_on_input(model)
    readers, producers = consumers(model), {name: node for node in model.graph.node for name in node.output}
    found: list[str] = []
    ahead: set[str] = set()  # tensors that lead to a layer
    for node in reversed(model.graph.node):
        if node.op_type in WEIGHTED or not ahead.isdisjoint(node.output):
            ahead.update(node.input)
            continue
        if dependent.issuperset(node.output) and not _absorbed(node, producers, readers):
            found.append(node.name)
    return found[::-1]


def _absorbed(
    node: onnx.NodeProto, producers: dict[str, onnx.NodeProto], readers: dict[str, list[onnx.NodeProto]]
) -> bool:
    """Return whether a node is an activation that INT8 runtimes fuse into the layer before it."""
    source = producers.get(node.input[0]) if node.input else None
    absorbed = node.op_type in CLIPPING and source is not None and source.op_type in WEIGHTED
    return absorbed and len(readers[node.input[0]]) <= 1


def last_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the layers with stored weights that no other operator with weights follows."""
    names = set(weighted_layers(model))
    behind: set[str] = set()  # tensors that lead to a layer
    found: list[str] = []
    for node in reversed(model.graph.node):
        leads = not behind.isdisjoint(node.output)
        if node.name in names and not leads:
            found.append(node.name)
        if leads or node.op_type in WEIGHTED:
            behind.update(node.input)
    return found[::-1]


def orders(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that choose among floats that depend on an input; rounding changes no choice among integers."""
    dependent = depends_on_input(model)
    found = [node for node in model.graph.node if node.op_type in ORDERS and not dependent.isdisjoint(node.input)]
    types = tensor_types(model)
    if any(node.input[0] not in types for node in found):
        types = tensor_types(onnx.shape_inference.infer_shapes(model))
    return [node for node in found if node.input[0] not in types or types[node.input[0]].elem_type in FLOATS]


def decoding(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes without weights that make what orders choose by, or use what they chose.

    In a detector with a selection of proposals, other layers follow; such nodes are in front of them and `tail` behind.
    Nodes that depend on no input are left out, and activations that a layer absorbs.
    """
    dependent, readers = depends_on_input(model), consumers(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    choosing = orders(model)
    before = {name for node in choosing for name in node.input}
    after = {name for node in choosing for name in node.output}
    nodes = [node for node in model.graph.node if node.op_type not in WEIGHTED and dependent.issuperset(node.output)]
    for node in nodes:
        if not after.isdisjoint(onnx_file.names_read(node)):
            after.update(node.output)
    found: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if not after.isdisjoint(node.output):
            found.append(node)
        elif not before.isdisjoint(node.output):
            before.update(onnx_file.names_read(node))
            if not _absorbed(node, producers, readers):
                found.append(node)
    return found[::-1]


def heads(model: onnx.ModelProto) -> list[str]:
    """Return what tells how good a graph with orders is: outputs that depend on none, and what the first are made from.

    These are the results of the last layers in front of the first orders. Rows behind an order change places under the
    smallest noise. Empty for a graph without orders.
    """
    behind = {name for node in orders(model) for name in node.output}
    if not behind:
        return []
    names, dependent = set(weighted_layers(model)), depends_on_input(model)
    for node in model.graph.node:
        if not behind.isdisjoint(onnx_file.names_read(node)):
            behind.update(node.output)
    leading: set[str] = set()
    found: list[str] = []
    for node in reversed(model.graph.node):
        if not behind.isdisjoint(node.output):
            continue
        leads = not leading.isdisjoint(node.output)
        if node.name in names and not leads and dependent.issuperset(node.output):
            found.append(node.output[0])
        if leads or node.op_type in WEIGHTED:
            leading.update(node.input)
    apart = [value.name for value in model.graph.output if value.name in dependent - behind]
    return [*apart, *(name for name in found[::-1] if name not in apart)]


def read_in_branches(model: onnx.ModelProto) -> set[str]:
    """Return the tensors of a graph that subgraphs, such as the branches of an If, read by name."""
    return {
        name
        for node in model.graph.node
        if any(item.type in _GRAPHS for item in node.attribute)
        for name in onnx_file.names_read(node)
    }


def depends_on_input(model: onnx.ModelProto) -> set[str]:
    """Return the tensors whose values depend on the values of an input, not only on its shape."""
    stored = initializers(model)
    found = {value.name for value in model.graph.input if value.name not in stored}
    for node in model.graph.node:
        inner = any(item.type in _GRAPHS for item in node.attribute)
        if node.op_type not in _SHAPES and (inner or not found.isdisjoint(node.input)):
            found.update(node.output)
    return found


def broadcasting(model: onnx.ModelProto, operator: str) -> list[str]:
    """Return the names of the nodes of a type that stretch an activation to the shape of another one."""
    types, stored = tensor_types(model), initializers(model)
    shapes = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in types.items() if name not in stored}
    found = []
    for node in model.graph.node:
        if node.op_type == operator and all(name in shapes for name in node.input):
            first, second = (shapes[name] for name in node.input)
            if len(first) != len(second) or any((a == 1) != (b == 1) for a, b in zip(first, second, strict=True)):
                found.append(node.name)
    return found


def depthwise_inputs(model: onnx.ModelProto) -> frozenset[str]:
    """Return the first inputs of the depthwise convolutions of a graph."""
    types = tensor_types(model)
    return frozenset(
        node.input[0]
        for node in model.graph.node
        if node.op_type == "Conv"
        and node.input[0] in types
        and len(types[node.input[0]].shape.dim) == 4
        and attribute(node, "group", 1) == types[node.input[0]].shape.dim[1].dim_value > 1
    )


def is_large(model: onnx.ModelProto) -> bool:
    """Return whether sessions of a graph are to keep one copy of its weights."""
    return onnx_file.weight_bytes(model) >= LOW_MEMORY_BYTES


def weighted_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes with stored weights, in execution order."""
    stored = initializers(model)
    return [node.name for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in stored]


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of an attribute, or ``default``."""
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def tensor_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Return element type and shape of every tensor for which they are known."""
    graph = model.graph
    return {
        value.name: value.type.tensor_type
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.HasField("tensor_type")
    }


def first_counted(model: onnx.ModelProto) -> onnx.TypeProto.Tensor | None:
    """Return the type of the first input with dimensions, the first of which counts samples; None if there is none."""
    types = [value.type.tensor_type for value in model.graph.input]
    return next((kind for kind in types if len(kind.shape.dim)), None)


def element_count(kind: onnx.TypeProto.Tensor) -> int:
    """Return the number of elements of a tensor; unknown dimensions count as one."""
    return int(np.prod([max(dim.dim_value, 1) for dim in kind.shape.dim], dtype=np.int64))


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each tensor, also those whose inner graphs do."""
    nodes: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(onnx_file.names_read(node)):
            nodes.setdefault(name, []).append(node)
    return nodes


def batch_norms_to_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace batch normalizations of (N, C, H, W) by depthwise 1 × 1 convolutions, in place, and return the graph.

    The scale and shift of each channel are computed in float64 and rounded once, to float32.
    """
    stored = initializers(model)
    ranks = {name: len(kind.shape.dim) for name, kind in tensor_types(model).items()}
    for node in model.graph.node:
        parameters = [stored[name] for name in node.input[1:5] if name in stored]
        if node.op_type != "BatchNormalization" or ranks.get(node.input[0]) != 4 or len(parameters) < 4:
            continue
        gamma, beta, mean, variance = (onnx.numpy_helper.to_array(item).astype(np.float64) for item in parameters)
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        shift = beta - mean * scale
        names = [f"{node.output[0]}_factor", f"{node.output[0]}_shift"]
        weight = scale.astype(np.float32).reshape(-1, 1, 1, 1)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, names[0]))
        model.graph.initializer.append(onnx.numpy_helper.from_array(shift.astype(np.float32), names[1]))
        source = node.input[0]
        del node.input[:], node.attribute[:], node.output[1:]
        node.op_type = "Conv"
        node.input.extend([source, *names])
        node.attribute.append(onnx.helper.make_attribute("group", len(scale)))
        node.attribute.append(onnx.helper.make_attribute("kernel_shape", [1, 1]))
    return model


def _check_quantizable(model: onnx.ModelProto, path: Path) -> None:
    if _QUANTIZED & {node.op_type for node in onnx_file.all_nodes(model)}:
        raise ArtifactError(f"{path}: the graph is already quantized.", "use the float32 export")
    if not any(node.op_type in WEIGHTED for node in model.graph.node):
        raise ArtifactError(f"{path}: the graph has no {', '.join(WEIGHTED)}, so INT8 would not make it faster.")


def _check_weights(model: onnx.ModelProto, path: Path) -> None:
    """Refuse weights that are not finite; other tensors, such as masks, may contain infinity."""
    stored = initializers(model)
    nodes = [node for node in model.graph.node if node.op_type in (*WEIGHTED, "BatchNormalization")]
    for name in dict.fromkeys(name for node in nodes for name in node.input[1:] if name in stored):
        values = onnx_file.array(stored[name], path)
        count = int(values.size - np.isfinite(values).sum()) if values.dtype.kind == "f" else 0
        if count:
            raise ArtifactError(f"{path}: tensor {name!r} contains {count} values that are not finite.")


def _pool_means(model: onnx.ModelProto) -> None:
    """Replace a mean over all positions by a global average pool, for which runtimes have INT8 kernels."""
    stored = initializers(model)
    ranks = {name: len(kind.shape.dim) for name, kind in tensor_types(infer_shapes(model)).items()}
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
    """Give every node a unique name, by which the quantizer identifies it."""
    names: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in names:
            node.name = f"{node.op_type}_{index}"
        names.add(node.name)


def _drop_unused_opsets(model: onnx.ModelProto) -> None:
    """Remove operator sets without nodes; ONNX Runtime lists all that it knows."""
    domains = {node.domain for node in onnx_file.all_nodes(model)} | {"", "ai.onnx"}
    used = [item for item in model.opset_import if item.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(used)
