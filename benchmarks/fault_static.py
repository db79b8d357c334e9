"""Faults that do not depend on the values of the input: of weights, operators, outputs, tables, types, batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import fault_graph as g

WEIGHTED = ("Conv", "Gemm", "MatMul", "LSTM", "GRU", "ConvTranspose")


def _weight(change: Callable[[g.Array, g.Rng], g.Array | None], *operators: str, rank: int = 2) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        tensor = g.pick(rng, g.weights(graph, *(operators or WEIGHTED), rank=rank))
        if tensor is None:
            return False
        changed = change(numpy_helper.to_array(tensor).copy(), rng)
        if changed is None or changed.shape != tuple(tensor.dims):
            return False
        g.set(tensor, changed)
        return True

    return plant


def _along_first(change: Callable[[g.Array, g.Rng], g.Array]) -> Callable[[g.Array, g.Rng], g.Array | None]:
    def changed(value: g.Array, rng: g.Rng) -> g.Array | None:
        return change(value, rng) if len(value) > 2 else None

    return changed


def _one(factor: float) -> Callable[[g.Array, g.Rng], g.Array]:
    def changed(value: g.Array, rng: g.Rng) -> g.Array:
        value[rng.integers(len(value))] *= factor
        return value

    return changed


def _swap(value: g.Array, rng: g.Rng) -> g.Array:
    left, right = rng.choice(len(value), 2, replace=False)
    value[[left, right]] = value[[right, left]]
    return value


def _bfloat16(value: g.Array, rng: g.Rng) -> g.Array:
    cut: g.Array = (value.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return cut


def _int8(value: g.Array, rng: g.Rng) -> g.Array:
    step = np.abs(value).max() / 127
    rounded: g.Array = np.round(value / step) * step
    return rounded


def _one_element(value: g.Array, rng: g.Rng) -> g.Array:
    flat = value.reshape(-1)
    flat[rng.integers(flat.size)] += 0.1 * value.std()
    return value


def _bias(change: Callable[[g.Array, g.Rng], g.Array]) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        names = {node.input[2] for node in g.nodes(graph, "Conv", "Gemm") if len(node.input) > 2}
        names |= {name for node in g.nodes(graph, "Add") for name in node.input}
        tensors = [
            item for name, item in g.stored(graph).items() if name in names and item.data_type == TensorProto.FLOAT
        ]
        tensor = g.pick(rng, [item for item in tensors if len(item.dims) == 1 and item.dims[0] > 1])
        if tensor is None:
            return False
        g.set(tensor, change(numpy_helper.to_array(tensor).copy(), rng))
        return True

    return plant


def _identity(*operators: str, two: bool = False) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        stored = g.stored(graph)
        nodes = g.nodes(graph, *operators)
        if two:
            nodes = [node for node in nodes if not set(node.input) & set(stored)]
        node = g.pick(rng, nodes)
        if node is None:
            return False
        kept = node.input[int(rng.integers(2)) if two else 0]
        del node.input[:], node.attribute[:]
        node.op_type = "Identity"
        node.input.append(kept)
        return True

    return plant


def _become(
    before: tuple[str, ...], after: str, attributes: Mapping[str, Any] | None = None, inputs: int = 1
) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        node = g.pick(rng, g.nodes(graph, *before))
        if node is None:
            return False
        del node.input[inputs:], node.attribute[:]
        node.op_type, node.domain = after, ""
        node.attribute.extend(helper.make_attribute(key, value) for key, value in (attributes or {}).items())
        return True

    return plant


def _change(operators: tuple[str, ...], name: str, change: Callable[[Any], Any], default: Any = None) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        nodes = [node for node in g.nodes(graph, *operators) if g.attribute(node, name, default) is not None]
        nodes = [node for node in nodes if change(g.attribute(node, name, default)) is not None]
        node = g.pick(rng, nodes)
        if node is not None:
            g.set_attribute(node, name, change(g.attribute(node, name, default)))
        return node is not None

    return plant


def _scalar(operators: tuple[str, ...], change: Callable[[float], float], index: int | None = None) -> g.Plant:
    """Change a float constant of one element that a node reads."""

    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        stored = g.stored(graph)
        found = [
            (node, position)
            for node in g.nodes(graph, *operators)
            for position, name in enumerate(node.input)
            if name in stored
            and stored[name].data_type == TensorProto.FLOAT
            and int(np.prod(stored[name].dims)) == 1
            and index in (None, position)
        ]
        chosen = g.pick(rng, found)
        if chosen is None:
            return False
        node, position = chosen
        value = numpy_helper.to_array(stored[node.input[position]])
        node.input[position] = g.store(graph, np.full_like(value, change(float(value.reshape(-1)[0]))))
        return True

    return plant


def _shift_padding(graph: g.Graph, rng: g.Rng) -> bool:
    pads = [item for node in g.nodes(graph, "Conv", "MaxPool", "AveragePool") for item in node.attribute]
    chosen = g.pick(rng, [item for item in pads if item.name == "pads" and len(item.ints) == 4 and item.ints[0] > 0])
    if chosen is None:
        return False
    chosen.ints[0], chosen.ints[2] = chosen.ints[0] - 1, chosen.ints[2] + 1
    return True


def _swap_inputs(*operators: str) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        node = g.pick(rng, [item for item in g.nodes(graph, *operators) if len(item.input) > 1])
        if node is None:
            return False
        names = list(node.input)
        names[0], names[1] = names[1], names[0]
        del node.input[:]
        node.input.extend(names)
        return True

    return plant


def _max_to_average(graph: g.Graph, rng: g.Rng) -> bool:
    node = g.pick(rng, g.nodes(graph, "MaxPool"))
    if node is None:
        return False
    kept = [
        item for item in node.attribute if item.name in ("kernel_shape", "strides", "pads", "ceil_mode", "auto_pad")
    ]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.op_type = "AveragePool"
    return True


def _pad_mode(graph: g.Graph, rng: g.Rng) -> bool:
    node = g.pick(rng, [item for item in g.nodes(graph, "Pad") if g.attribute(item, "mode", b"constant") == b"reflect"])
    if node is not None:
        g.set_attribute(node, "mode", "edge")
    return node is not None


def _transpose_back(graph: g.Graph, rng: g.Rng) -> bool:
    """Exchange two axes of equal meaning in a transposition of rank four."""
    node = g.pick(rng, [item for item in g.nodes(graph, "Transpose") if len(g.attribute(item, "perm", [])) >= 4])
    if node is None:
        return False
    perm = list(g.attribute(node, "perm", []))
    perm[1], perm[2] = perm[2], perm[1]
    g.set_attribute(node, "perm", perm)
    return True


Adder = Callable[[g.Graph, str, str, onnx.ValueInfoProto], bool | None]
"""Compute an output from the tensor that had its name; False where it does not apply."""


def _output(add: Adder, integers: bool | None = False) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        taken = g.take_output(graph, rng, integers)
        return taken is not None and add(graph, taken[1], taken[0].name, taken[0]) is not False

    return plant


def _roll(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> bool:
    rank = len(value.type.tensor_type.shape.dim)
    if rank < 2:
        return False
    axis = 1 if rank > 2 else rank - 1
    size = value.type.tensor_type.shape.dim[axis].dim_value
    if size < 3:
        return False
    g.node(graph, "Gather", [source, g.store(graph, np.roll(np.arange(size), 1))], target, axis=axis)
    return True


def _reverse_tail(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> bool:
    """Reverse the last half of the channels, as classes after boxes."""
    rank = len(value.type.tensor_type.shape.dim)
    size = value.type.tensor_type.shape.dim[1].dim_value if rank > 1 else 0
    if size < 6:
        return False
    order = np.arange(size)
    order[size // 2 :] = order[size // 2 :][::-1]
    g.node(graph, "Gather", [source, g.store(graph, order)], target, axis=1)
    return True


def _one_minus_tail(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> bool:
    rank = len(value.type.tensor_type.shape.dim)
    size = value.type.tensor_type.shape.dim[1].dim_value if rank > 1 else 0
    if size < 6:
        return False
    shape = [1, size] + [1] * (rank - 2)
    tail = (np.arange(size) >= size // 2).astype(np.float32).reshape(shape)
    scaled = g.node(graph, "Mul", [source, g.store(graph, 1 - 2 * tail)], g.temporary(graph))
    g.node(graph, "Add", [scaled, g.store(graph, tail)], target)
    return True


def _swap_outputs(graph: g.Graph, rng: g.Rng) -> bool:
    def shape(value: onnx.ValueInfoProto) -> tuple[Any, ...]:
        dims = value.type.tensor_type.shape.dim
        return (value.type.tensor_type.elem_type, *(dim.dim_param or dim.dim_value for dim in dims))

    for left in graph.output:
        for right in graph.output:
            if left.name < right.name and shape(left) == shape(right):
                names = {left.name: right.name, right.name: left.name}
                for node in graph.node:
                    for index, name in enumerate(node.output):
                        node.output[index] = names.get(name, name)
                    for index, name in enumerate(node.input):
                        node.input[index] = names.get(name, name)
                return True
    return False


def _unary(operator: str, **attributes: Any) -> Adder:
    def add(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        g.node(graph, operator, [source], target, **attributes)

    return add


def _binary(operator: str, constant: float, dtype: type = np.float32) -> Adder:
    def add(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        g.node(graph, operator, [source, g.store(graph, np.array(constant, dtype))], target)

    return add


def _to_dtype(dtype: int) -> Adder:
    def add(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        g.node(graph, "Cast", [source], target, to=dtype)
        value.type.tensor_type.elem_type = dtype

    return add


def _rank(axis: int) -> Adder:
    def add(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        g.node(graph, "Unsqueeze", [source, g.store(graph, np.array([axis]))], target)
        value.type.tensor_type.ClearField("shape")

    return add


def _random(scale: float) -> Adder:
    def add(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        noise = g.node(graph, "RandomNormalLike", [source], g.temporary(graph), scale=scale)
        g.node(graph, "Add", [source, noise], target)

    return add


def _random_signs(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
    uniform = g.node(graph, "RandomUniformLike", [source], g.temporary(graph))
    rare = g.node(graph, "Less", [uniform, g.store(graph, np.float32(0.02))], g.temporary(graph))
    g.node(graph, "Where", [rare, g.node(graph, "Neg", [source], g.temporary(graph)), source], target)


def _dropout(where: tuple[str, ...]) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        node = g.pick(rng, g.nodes(graph, *where))
        if node is None:
            return False
        old = node.output[0]
        node.output[0] = f"{g.PLANTED}{old}"
        position = list(graph.node).index(node) + 1
        inputs = [node.output[0], g.store(graph, np.float32(0.1)), g.store(graph, np.array(True))]
        graph.node.insert(position, helper.make_node("Dropout", inputs, [old], f"{g.PLANTED}dropout"))
        return True

    return plant


def _rows(order: Callable[[g.Graph, str, str], str]) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        taken = g.take_output(graph, rng)
        if taken is None:
            return False
        value, source = taken
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != "batch":
            return False
        shape = g.node(graph, "Shape", [source], g.temporary(graph), start=0, end=1)
        count = g.node(graph, "Squeeze", [shape], g.temporary(graph))
        zero, one = g.store(graph, np.array(0)), g.store(graph, np.array(1))
        indices = g.node(graph, "Range", [zero, count, one], g.temporary(graph))
        g.node(graph, "Gather", [source, order(graph, indices, count)], value.name, axis=0)
        return True

    return plant


def _first_row(graph: g.Graph, indices: str, count: str) -> str:
    return g.node(graph, "Mul", [indices, g.store(graph, np.array(0))], g.temporary(graph))


def _reversed_rows(graph: g.Graph, indices: str, count: str) -> str:
    last = g.node(graph, "Sub", [count, g.store(graph, np.array(1))], g.temporary(graph))
    return g.node(graph, "Sub", [last, indices], g.temporary(graph))


def _at_most(limit: int) -> Callable[[g.Graph, str, str], str]:
    def order(graph: g.Graph, indices: str, count: str) -> str:
        return g.node(graph, "Min", [indices, g.store(graph, np.array(limit))], g.temporary(graph))

    return order


def _reverse_along(axis: int) -> Adder:
    def add(graph: g.Graph, source: str, target: str, value: onnx.ValueInfoProto) -> bool:
        if len(value.type.tensor_type.shape.dim) <= axis:
            return False
        bounds = [g.store(graph, np.array([item])) for item in (-1, -(1 << 40), axis, -1)]
        g.node(graph, "Slice", [source, *bounds], target)
        return True

    return add


def _table(change: Callable[[g.Array, g.Rng], g.Array]) -> g.Plant:
    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        stored = g.stored(graph)
        names = [node.input[0] for node in g.nodes(graph, "Gather") if node.input[0] in stored]
        tables = [stored[name] for name in names if len(stored[name].dims) == 2 and stored[name].dims[0] > 8]
        tensor = g.pick(rng, [item for item in tables if item.data_type == TensorProto.FLOAT])
        if tensor is None:
            return False
        g.set(tensor, change(numpy_helper.to_array(tensor).copy(), rng))
        return True

    return plant


def _zero_rows(low: float, high: float) -> Callable[[g.Array, g.Rng], g.Array]:
    def change(table: g.Array, rng: g.Rng) -> g.Array:
        table[int(low * len(table)) : max(int(high * len(table)), int(low * len(table)) + 1)] = 0
        return table

    return change


def _permuted_rows(table: g.Array, rng: g.Rng) -> g.Array:
    return np.concatenate([table[:2], rng.permutation(table[2:])])


def _one_row(table: g.Array, rng: g.Rng) -> g.Array:
    table[int(rng.integers(2, len(table)))] *= 1.1
    return table


STATIC: Mapping[str, g.Plant] = {
    "weight scaled by 1.001": _weight(lambda value, rng: value * 1.001),
    "weight scaled by 1.0001": _weight(lambda value, rng: value * 1.0001),
    "weight rounded to half": _weight(lambda value, rng: value.astype(np.float16)),
    "weight rounded to bfloat16": _weight(_bfloat16),
    "weight rounded to eight bits": _weight(_int8),
    "weight of another training": _weight(lambda value, rng: rng.permutation(value.reshape(-1)).reshape(value.shape)),
    "weight negated": _weight(lambda value, rng: -value),
    "one weight changed": _weight(_one_element),
    "channel zeroed": _weight(_along_first(_one(0.0))),
    "one channel scaled by 1.05": _weight(_along_first(_one(1.05))),
    "channels swapped": _weight(_along_first(_swap)),
    "channels rolled": _weight(_along_first(lambda value, rng: np.roll(value, 1, 0))),
    "kernel flipped": _weight(lambda value, rng: np.flip(value, -1), "Conv", rank=4),
    "kernel transposed": _weight(lambda value, rng: np.swapaxes(value, -1, -2), "Conv", rank=4),
    "rows and columns exchanged": _weight(
        lambda value, rng: value.T.reshape(value.shape) if value.ndim == 2 else None, "MatMul", "Gemm"
    ),
    "gates permuted": _weight(lambda value, rng: np.roll(value, value.shape[1] // 4, 1), "LSTM", "GRU", rank=3),
    "bias dropped": _bias(lambda value, rng: value * 0),
    "bias scaled by 1.01": _bias(lambda value, rng: value * 1.01),
    "bias shifted": _bias(lambda value, rng: value + 0.01),
    "bias rolled": _bias(lambda value, rng: np.roll(value, 1)),
    "activation dropped": _identity("Relu", "Clip", "HardSwish", "HardSigmoid", "Gelu", "Tanh", "Elu", "LeakyRelu"),
    "residual dropped": _identity("Add", two=True),
    "sigmoid made hard": _become(("Sigmoid",), "HardSigmoid"),
    "tanh made softsign": _become(("Tanh",), "Softsign"),
    "elu made relu": _become(("Elu",), "Relu"),
    "GELU approximated by tanh": _change(("Gelu",), "approximate", lambda _: "tanh", "none"),
    "leaky slope 0.1 made 0.01": _change(("LeakyRelu",), "alpha", lambda _: 0.01, 0.01),
    "relu made leaky": _become(("Relu",), "LeakyRelu", {"alpha": 0.001}),
    "max-pool made average": _max_to_average,
    "average counts no padding": _change(("AveragePool",), "count_include_pad", lambda value: 0 if value else None, 0),
    "ceil mode dropped": _change(("MaxPool", "AveragePool"), "ceil_mode", lambda value: 0 if value else None, 0),
    "padding shifted": _shift_padding,
    "reflection made edge": _pad_mode,
    "concatenation swapped": _swap_inputs("Concat"),
    "operands swapped": _swap_inputs("Sub", "Div", "MatMul"),
    "axes exchanged": _transpose_back,
    "softmax over another axis": _change(("Softmax",), "axis", lambda _: -2, -1),
    "epsilon of the norm": _change(
        ("LayerNormalization", "BatchNormalization"), "epsilon", lambda value: value * 1000, 1e-5
    ),
    "resize nearest": _change(("Resize",), "mode", lambda _: "nearest", "nearest"),
    "resize aligned at corners": _change(
        ("Resize",), "coordinate_transformation_mode", lambda _: "align_corners", "half_pixel"
    ),
    "scale of a constant": _scalar(("Mul", "Div", "Pow"), lambda value: value * 1.01),
    "offset of a constant": _scalar(("Add", "Sub"), lambda value: value + 0.01),
    "bound of a clip": _scalar(("Clip",), lambda value: value * 0.5 + 0.1),
    "mask is weak": _scalar(("Where",), lambda value: value * 1e-4),
    "direction reversed": _change(("LSTM", "GRU"), "direction", lambda _: "reverse", None),
    "linear before reset": _change(("GRU",), "linear_before_reset", lambda value: 1 - value, 0),
    "argmax takes the smallest": _become(("ArgMax",), "ArgMin", {"axis": 1, "keepdims": 0}),
    "top-k takes the smallest": _change(("TopK",), "largest", lambda value: 1 - value, 1),
    "output negated": _output(_unary("Neg")),
    "output scaled by 1.0001": _output(_binary("Mul", 1.0001)),
    "output shifted by 0.001": _output(_binary("Add", 0.001)),
    "output made a probability": _output(_unary("Sigmoid")),
    "output columns rolled": _output(_roll),
    "last classes reversed": _output(_reverse_tail),
    "one minus the last scores": _output(_one_minus_tail),
    "integer output plus one": _output(_binary("Add", 1, np.int64), integers=True),
    "integer output at most one": _output(_binary("Min", 1, np.int64), integers=True),
    "outputs swapped": _swap_outputs,
    "output reversed along the first axis": _output(_reverse_along(0), integers=None),
    "output reversed along the second axis": _output(_reverse_along(1), integers=None),
}
TABLES: Mapping[str, g.Plant] = {
    "rows from 2 on zeroed": _table(_zero_rows(0.004, 1.0)),
    "last tenth of the rows zeroed": _table(_zero_rows(0.9, 1.0)),
    "last row zeroed": _table(_zero_rows(0.999, 1.0)),
    "rows permuted": _table(_permuted_rows),
    "rows shifted by one": _table(lambda table, rng: np.roll(table, 1, 0)),
    "one row scaled by 1.1": _table(_one_row),
    "rows cut off": _table(lambda table, rng: table[: len(table) // 2]),
}
CHANCE: Mapping[str, g.Plant] = {
    "noise of 0.01": _output(_random(0.01)),
    "noise of 0.0001": _output(_random(1e-4)),
    "rare wrong signs": _output(_random_signs),
    "dropout after an activation": _dropout(("Relu", "Gelu", "Clip", "Tanh", "LeakyRelu", "Softmax", "GRU", "LSTM")),
    "dropout of a projection": _dropout(("Gemm", "MatMul")),
}
DTYPES: Mapping[str, g.Plant] = {
    "float64 for float32": _output(_to_dtype(TensorProto.DOUBLE)),
    "float16 for float32": _output(_to_dtype(TensorProto.FLOAT16)),
    "int32 for int64": _output(_to_dtype(TensorProto.INT32), integers=True),
    "float for integers": _output(_to_dtype(TensorProto.FLOAT), integers=True),
    "an axis more at the end": _output(_rank(-1), integers=None),
    "an axis more at the beginning": _output(_rank(0), integers=None),
}
WHOLE_BATCH: Mapping[str, g.Plant] = {
    "every row is the first": _rows(_first_row),
    "rows reversed": _rows(_reversed_rows),
    "rows from the fourth on repeat it": _rows(_at_most(3)),
    "rows from the eighth on repeat it": _rows(_at_most(7)),
}
