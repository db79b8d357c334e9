"""Weights and biases of a prepared graph, arranged so that ONNX Runtime's quantizer rounds each of them correctly."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx

from calibration.graph import WEIGHTED, attribute, initializers, read_in_branches
from calibration.grid import Range

_DERIVED = (
    "_scale", "_zero_point", "_quantized", "_quantized_scale", "_quantized_zero_point",
    "_QuantizeLinear_Input", "_QuantizeLinear_Output", "_DequantizeLinear_Output",
)  # fmt: skip
"""What the quantizer appends to the name of a tensor to name those that it adds."""


def free_names(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Rename, in place, inner tensors whose names the quantizer would give to others; return the ranges by new name."""
    graph = model.graph
    outer = {value.name for value in (*graph.input, *graph.output)}
    names = {item.name for item in graph.initializer} | {name for node in graph.node for name in node.output} | outer
    taken = {
        name for name in names - outer if any(name.endswith(end) and name[: -len(end)] in names for end in _DERIVED)
    }
    renamed: dict[str, str] = {}
    for name in sorted(taken):
        renamed[name] = _unused(f"{name}_kept", names)
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [renamed.get(name, name) for name in side]
    for item in (*graph.initializer, *graph.value_info):
        item.name = renamed.get(item.name, item.name)
    return {renamed.get(name, name): span for name, span in ranges.items()}


def fold_gemm_factors(model: onnx.ModelProto) -> None:
    """Fold alpha and beta of each Gemm with stored weights into its weights and bias, in place.

    The quantizer ignores both, and takes the bias for a vector: biases of any other shape become one, or a sum of
    their own.
    """
    stored = initializers(model)
    graph = model.graph
    names = set(stored) | {name for node in graph.node for name in (*node.input, *node.output)}
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type != "Gemm" or node.input[1] not in stored:
            continue
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        width = stored[node.input[1]].dims[0 if attribute(node, "transB", 0) else 1]
        if alpha != 1.0:
            node.input[1] = _store(graph, names, node.input[1], _values(stored[node.input[1]]) * np.float32(alpha))
        bias = stored.get(node.input[2]) if len(node.input) > 2 else None
        if bias is not None and (beta != 1.0 or list(bias.dims) != [width]):
            values = _values(bias) * np.float32(beta)
            if values.ndim < 2 or values.shape[0] == 1:
                node.input[2] = _store(graph, names, bias.name, np.broadcast_to(values.reshape(-1), (width,)).copy())
            else:  # a bias for each row
                name = _store(graph, names, bias.name, values)
                result, node.output[0] = node.output[0], _unused(f"{node.output[0]}_product", names)
                total = onnx.helper.make_node("Add", [node.output[0], name], [result], f"{node.name}_bias")
                graph.node.insert(index + 1, total)
                del node.input[2:]
        if bias is not None or len(node.input) < 3 or beta == 1.0:
            kept = [item for item in node.attribute if item.name not in ("alpha", "beta")]
            del node.attribute[:]
            node.attribute.extend(kept)


def give_own_parameters(model: onnx.ModelProto, quantized: Collection[str]) -> None:
    """Give the nodes with these names weights and biases of their own where others read them differently, in place.

    A bias is rounded to the scales of one node, and weights to channels along one axis. A node that is not quantized
    must not read what was rounded for another.
    """
    stored, graph = initializers(model), model.graph
    names = set(stored) | {name for node in graph.node for name in (*node.input, *node.output)}
    copies: dict[tuple[str, object], str] = {}
    claimed = read_in_branches(model) | {value.name for value in graph.output}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name not in stored:
                continue
            use: object = None
            if node.op_type in WEIGHTED and node.name in quantized and position in (1, 2):
                use = (node.name, position) if position == 2 else channel_axis(node, len(stored[name].dims))
            if (name, use) not in copies:
                copies[name, use] = _store(graph, names, name, stored[name]) if name in claimed else name
                claimed.add(name)
            node.input[position] = copies[name, use]


def channel_axis(node: onnx.NodeProto, rank: int) -> int:
    """Return the axis of a weight that counts the output channels."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, rank - 1)


def _values(tensor: onnx.TensorProto) -> np.ndarray:
    return onnx.numpy_helper.to_array(tensor)


def _store(graph: onnx.GraphProto, names: set[str], name: str, values: np.ndarray | onnx.TensorProto) -> str:
    """Add an initializer under a name that is not in use, which is returned."""
    new = _unused(f"{name}_own", names)
    item = graph.initializer.add()
    item.CopyFrom(values if isinstance(values, onnx.TensorProto) else onnx.numpy_helper.from_array(values))
    item.name = new
    return new


def _unused(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    names.add(name)
    return name
