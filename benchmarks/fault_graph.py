"""Edits of a graph, for `benchmarks.fault_kinds`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Graph = onnx.GraphProto
Rng = np.random.Generator
Array = NDArray[Any]
Plant = Callable[[Graph, Rng], bool]
"""Changes a graph in place at a random place, and returns whether it applies."""

PLANTED = "planted_"
"""Prefix of the names of added nodes and tensors."""


def pick(rng: Rng, items: list[Any]) -> Any:
    """Return a random item, or None if there is none."""
    return items[int(rng.integers(len(items)))] if items else None


def nodes(graph: Graph, *operators: str) -> list[onnx.NodeProto]:
    """Return the nodes of some operators."""
    return [node for node in graph.node if node.op_type in operators]


def stored(graph: Graph) -> dict[str, onnx.TensorProto]:
    """Return the initializers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def weights(graph: Graph, *operators: str, rank: int = 2) -> list[onnx.TensorProto]:
    """Return the float weights that nodes of some operators read."""
    read = {name for node in nodes(graph, *operators) for name in node.input}
    return [
        tensor
        for tensor in graph.initializer
        if tensor.name in read and len(tensor.dims) >= rank and tensor.data_type == TensorProto.FLOAT
    ]


def set(tensor: onnx.TensorProto, value: Array) -> None:
    """Replace the values of a tensor, in its dtype."""
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.astype(old.dtype)), tensor.name))


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute of a node."""
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def store(graph: Graph, value: Array) -> str:
    """Add an initializer and return its name."""
    name = f"{PLANTED}value_{len(graph.initializer)}"
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def take_output(graph: Graph, rng: Rng, integers: bool | None = None) -> tuple[onnx.ValueInfoProto, str] | None:
    """Free the name of an output: the node that computed it now computes the returned tensor."""
    values = [
        value
        for value in graph.output
        if integers is None or (value.type.tensor_type.elem_type == TensorProto.INT64) == integers
    ]
    value = pick(rng, values)
    if value is None:
        return None
    new = f"{PLANTED}{value.name}"
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == value.name:
                node.output[index] = new
        for index, name in enumerate(node.input):
            if name == value.name:
                node.input[index] = new
    return value, new


def node(graph: Graph, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
    """Add a node and return its output."""
    graph.node.append(helper.make_node(operator, inputs, [output], f"{PLANTED}{len(graph.node)}", **attributes))
    return output


def temporary(graph: Graph) -> str:
    """Return a name for the output of the next node."""
    return f"{PLANTED}t{len(graph.node)}"
