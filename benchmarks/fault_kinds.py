"""Kinds of faults of an exported graph, for `benchmarks.faults`.

A kind changes a graph in place at a seeded random place and returns whether it applies. Categories: ``static``
(weights, operators, attributes, outputs), ``table``, ``input`` (wrong only where a condition on the values of the input
holds), ``size``, ``batch``, ``chance`` and ``dtype``. Added nodes have names that begin with `PLANTED`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Graph = onnx.GraphProto
Rng = np.random.Generator
Array = NDArray[Any]
Plant = Callable[[Graph, Rng], bool]

PLANTED = "planted_"
"""Prefix of the names of added nodes and tensors."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault."""

    name: str
    category: str
    plant: Plant


# Finding nodes and tensors


def _pick(rng: Rng, items: list[Any]) -> Any:
    return items[int(rng.integers(len(items)))] if items else None


def _nodes(graph: Graph, *operators: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type in operators]


def _stored(graph: Graph) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def _weights(graph: Graph, *operators: str, rank: int = 2) -> list[onnx.TensorProto]:
    read = {name for node in _nodes(graph, *operators) for name in node.input}
    return [
        tensor
        for tensor in graph.initializer
        if tensor.name in read and len(tensor.dims) >= rank and tensor.data_type == TensorProto.FLOAT
    ]


def _set(tensor: onnx.TensorProto, value: Array) -> None:
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.astype(old.dtype)), tensor.name))


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def _set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _store(graph: Graph, value: Array) -> str:
    name = f"{PLANTED}value_{len(graph.initializer)}"
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


# Static faults


WEIGHTED = ("Conv", "Gemm", "MatMul", "LSTM", "GRU", "ConvTranspose")


def _weight(change: Callable[[Array, Rng], Array | None], *operators: str, rank: int = 2) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        tensor = _pick(rng, _weights(graph, *(operators or WEIGHTED), rank=rank))
        if tensor is None:
            return False
        changed = change(numpy_helper.to_array(tensor).copy(), rng)
        if changed is None or changed.shape != tuple(tensor.dims):
            return False
        _set(tensor, changed)
        return True

    return plant


def _along_first(change: Callable[[Array, Rng], Array]) -> Callable[[Array, Rng], Array | None]:
    def changed(value: Array, rng: Rng) -> Array | None:
        return change(value, rng) if len(value) > 2 else None

    return changed


def _one(factor: float) -> Callable[[Array, Rng], Array]:
    def changed(value: Array, rng: Rng) -> Array:
        value[rng.integers(len(value))] *= factor
        return value

    return changed


def _swap(value: Array, rng: Rng) -> Array:
    left, right = rng.choice(len(value), 2, replace=False)
    value[[left, right]] = value[[right, left]]
    return value


def _bfloat16(value: Array, rng: Rng) -> Array:
    cut: Array = (value.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return cut


def _int8(value: Array, rng: Rng) -> Array:
    step = np.abs(value).max() / 127
    rounded: Array = np.round(value / step) * step
    return rounded


def _one_element(value: Array, rng: Rng) -> Array:
    flat = value.reshape(-1)
    flat[rng.integers(flat.size)] += 0.1 * value.std()
    return value


def _bias(change: Callable[[Array, Rng], Array]) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        names = {node.input[2] for node in _nodes(graph, "Conv", "Gemm") if len(node.input) > 2}
        names |= {name for node in _nodes(graph, "Add") for name in node.input}
        tensors = [
            item for name, item in _stored(graph).items() if name in names and item.data_type == TensorProto.FLOAT
        ]
        tensor = _pick(rng, [item for item in tensors if len(item.dims) == 1 and item.dims[0] > 1])
        if tensor is None:
            return False
        _set(tensor, change(numpy_helper.to_array(tensor).copy(), rng))
        return True

    return plant


def _identity(*operators: str, two: bool = False) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        stored = _stored(graph)
        nodes = _nodes(graph, *operators)
        if two:
            nodes = [node for node in nodes if not set(node.input) & set(stored)]
        node = _pick(rng, nodes)
        if node is None:
            return False
        kept = node.input[int(rng.integers(2)) if two else 0]
        del node.input[:], node.attribute[:]
        node.op_type = "Identity"
        node.input.append(kept)
        return True

    return plant


def _become(before: tuple[str, ...], after: str, attributes: Mapping[str, Any] | None = None, inputs: int = 1) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        node = _pick(rng, _nodes(graph, *before))
        if node is None:
            return False
        del node.input[inputs:], node.attribute[:]
        node.op_type, node.domain = after, ""
        node.attribute.extend(helper.make_attribute(key, value) for key, value in (attributes or {}).items())
        return True

    return plant


def _change(operators: tuple[str, ...], name: str, change: Callable[[Any], Any], default: Any = None) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        nodes = [node for node in _nodes(graph, *operators) if _attribute(node, name, default) is not None]
        nodes = [node for node in nodes if change(_attribute(node, name, default)) is not None]
        node = _pick(rng, nodes)
        if node is not None:
            _set_attribute(node, name, change(_attribute(node, name, default)))
        return node is not None

    return plant


def _scalar(operators: tuple[str, ...], change: Callable[[float], float], index: int | None = None) -> Plant:
    """Change a float constant of one element that a node reads."""

    def plant(graph: Graph, rng: Rng) -> bool:
        stored = _stored(graph)
        found = [
            (node, position)
            for node in _nodes(graph, *operators)
            for position, name in enumerate(node.input)
            if name in stored
            and stored[name].data_type == TensorProto.FLOAT
            and int(np.prod(stored[name].dims)) == 1
            and index in (None, position)
        ]
        chosen = _pick(rng, found)
        if chosen is None:
            return False
        node, position = chosen
        value = numpy_helper.to_array(stored[node.input[position]])
        node.input[position] = _store(graph, np.full_like(value, change(float(value.reshape(-1)[0]))))
        return True

    return plant


def _shift_padding(graph: Graph, rng: Rng) -> bool:
    pads = [item for node in _nodes(graph, "Conv", "MaxPool", "AveragePool") for item in node.attribute]
    chosen = _pick(rng, [item for item in pads if item.name == "pads" and len(item.ints) == 4 and item.ints[0] > 0])
    if chosen is None:
        return False
    chosen.ints[0], chosen.ints[2] = chosen.ints[0] - 1, chosen.ints[2] + 1
    return True


def _swap_inputs(*operators: str) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        node = _pick(rng, [item for item in _nodes(graph, *operators) if len(item.input) > 1])
        if node is None:
            return False
        names = list(node.input)
        names[0], names[1] = names[1], names[0]
        del node.input[:]
        node.input.extend(names)
        return True

    return plant


def _max_to_average(graph: Graph, rng: Rng) -> bool:
    node = _pick(rng, _nodes(graph, "MaxPool"))
    if node is None:
        return False
    kept = [
        item for item in node.attribute if item.name in ("kernel_shape", "strides", "pads", "ceil_mode", "auto_pad")
    ]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.op_type = "AveragePool"
    return True


def _pad_mode(graph: Graph, rng: Rng) -> bool:
    node = _pick(rng, [item for item in _nodes(graph, "Pad") if _attribute(item, "mode", b"constant") == b"reflect"])
    if node is not None:
        _set_attribute(node, "mode", "edge")
    return node is not None


def _transpose_back(graph: Graph, rng: Rng) -> bool:
    """Exchange two axes of equal meaning in a transposition of rank four."""
    node = _pick(rng, [item for item in _nodes(graph, "Transpose") if len(_attribute(item, "perm", [])) >= 4])
    if node is None:
        return False
    perm = list(_attribute(node, "perm", []))
    perm[1], perm[2] = perm[2], perm[1]
    _set_attribute(node, "perm", perm)
    return True


# Faults of outputs


def _take_output(graph: Graph, rng: Rng, integers: bool | None = None) -> tuple[onnx.ValueInfoProto, str] | None:
    """Free the name of an output: the node that computed it now computes the returned tensor."""
    values = [
        value
        for value in graph.output
        if integers is None or (value.type.tensor_type.elem_type == TensorProto.INT64) == integers
    ]
    value = _pick(rng, values)
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


Adder = Callable[[Graph, str, str, onnx.ValueInfoProto], bool | None]
"""Compute an output from the tensor that had its name; False where it does not apply."""


def _output(add: Adder, integers: bool | None = False) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        taken = _take_output(graph, rng, integers)
        return taken is not None and add(graph, taken[1], taken[0].name, taken[0]) is not False

    return plant


def _node(graph: Graph, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
    graph.node.append(helper.make_node(operator, inputs, [output], f"{PLANTED}{len(graph.node)}", **attributes))
    return output


def _temporary(graph: Graph) -> str:
    return f"{PLANTED}t{len(graph.node)}"


def _roll(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> bool:
    rank = len(value.type.tensor_type.shape.dim)
    if rank < 2:
        return False
    axis = 1 if rank > 2 else rank - 1
    size = value.type.tensor_type.shape.dim[axis].dim_value
    if size < 3:
        return False
    _node(graph, "Gather", [source, _store(graph, np.roll(np.arange(size), 1))], target, axis=axis)
    return True


def _reverse_tail(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> bool:
    """Reverse the last half of the channels, as classes after boxes."""
    rank = len(value.type.tensor_type.shape.dim)
    size = value.type.tensor_type.shape.dim[1].dim_value if rank > 1 else 0
    if size < 6:
        return False
    order = np.arange(size)
    order[size // 2 :] = order[size // 2 :][::-1]
    _node(graph, "Gather", [source, _store(graph, order)], target, axis=1)
    return True


def _one_minus_tail(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> bool:
    rank = len(value.type.tensor_type.shape.dim)
    size = value.type.tensor_type.shape.dim[1].dim_value if rank > 1 else 0
    if size < 6:
        return False
    shape = [1, size] + [1] * (rank - 2)
    tail = (np.arange(size) >= size // 2).astype(np.float32).reshape(shape)
    scaled = _node(graph, "Mul", [source, _store(graph, 1 - 2 * tail)], _temporary(graph))
    _node(graph, "Add", [scaled, _store(graph, tail)], target)
    return True


def _swap_outputs(graph: Graph, rng: Rng) -> bool:
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
    def add(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        _node(graph, operator, [source], target, **attributes)

    return add


def _binary(operator: str, constant: float, dtype: type = np.float32) -> Adder:
    def add(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        _node(graph, operator, [source, _store(graph, np.array(constant, dtype))], target)

    return add


def _to_dtype(dtype: int) -> Adder:
    def add(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        _node(graph, "Cast", [source], target, to=dtype)
        value.type.tensor_type.elem_type = dtype

    return add


def _rank(axis: int) -> Adder:
    def add(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        _node(graph, "Unsqueeze", [source, _store(graph, np.array([axis]))], target)
        value.type.tensor_type.ClearField("shape")

    return add


def _random(scale: float) -> Adder:
    def add(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
        noise = _node(graph, "RandomNormalLike", [source], _temporary(graph), scale=scale)
        _node(graph, "Add", [source, noise], target)

    return add


def _random_signs(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> None:
    uniform = _node(graph, "RandomUniformLike", [source], _temporary(graph))
    rare = _node(graph, "Less", [uniform, _store(graph, np.float32(0.02))], _temporary(graph))
    _node(graph, "Where", [rare, _node(graph, "Neg", [source], _temporary(graph)), source], target)


def _dropout(where: tuple[str, ...]) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        node = _pick(rng, _nodes(graph, *where))
        if node is None:
            return False
        old = node.output[0]
        node.output[0] = f"{PLANTED}{old}"
        position = list(graph.node).index(node) + 1
        inputs = [node.output[0], _store(graph, np.float32(0.1)), _store(graph, np.array(True))]
        graph.node.insert(position, helper.make_node("Dropout", inputs, [old], f"{PLANTED}dropout"))
        return True

    return plant


# Conditional faults


Condition = Callable[[Graph, Rng], str | None]
"""Add nodes that compute a scalar condition, and return its name; None where it does not apply."""


def _first_input(graph: Graph, *dtypes: int) -> onnx.ValueInfoProto | None:
    return next((value for value in graph.input if value.type.tensor_type.elem_type in dtypes), None)


def _values(*dtypes: int) -> Callable[[Callable[[Graph, str], str]], Condition]:
    def condition(compute: Callable[[Graph, str], str]) -> Condition:
        def add(graph: Graph, rng: Rng) -> str | None:
            value = _first_input(graph, *dtypes)
            if value is None:
                return None
            wide = _node(graph, "Cast", [value.name], _temporary(graph), to=TensorProto.FLOAT)
            return compute(graph, wide)

        return add

    return condition


_floats = _values(TensorProto.FLOAT, TensorProto.UINT8)
_only_floats = _values(TensorProto.FLOAT)
_ids = _values(TensorProto.INT64)
_mask = _values(TensorProto.BOOL)


def _reduce(graph: Graph, name: str, operator: str) -> str:
    return _node(graph, operator, [name], _temporary(graph), keepdims=0)


def _against(graph: Graph, name: str, operator: str, bound: float) -> str:
    return _node(graph, operator, [name, _store(graph, np.float32(bound))], _temporary(graph))


def _statistic(reduction: str, operator: str, bound: float) -> Callable[[Graph, str], str]:
    return lambda graph, name: _against(graph, _reduce(graph, name, reduction), operator, bound)


def _all(*parts: Callable[[Graph, str], str]) -> Callable[[Graph, str], str]:
    def compute(graph: Graph, name: str) -> str:
        result = parts[0](graph, name)
        for part in parts[1:]:
            result = _node(graph, "And", [result, part(graph, name)], _temporary(graph))
        return result

    return compute


def _largest(operator: str, bound: float) -> Callable[[Graph, str], str]:
    def compute(graph: Graph, name: str) -> str:
        size = _node(graph, "Abs", [name], _temporary(graph))
        return _against(graph, _reduce(graph, size, "ReduceMax"), operator, bound)

    return compute


def _spread(operator: str, bound: float) -> Callable[[Graph, str], str]:
    def compute(graph: Graph, name: str) -> str:
        ends = [_reduce(graph, name, "ReduceMax"), _reduce(graph, name, "ReduceMin")]
        return _against(graph, _node(graph, "Sub", ends, _temporary(graph)), operator, bound)

    return compute


def _contains(low: float, high: float) -> Callable[[Graph, str], str]:
    def compute(graph: Graph, name: str) -> str:
        inside = _node(
            graph, "And",
            [_against(graph, name, "GreaterOrEqual", low), _against(graph, name, "LessOrEqual", high)],
            _temporary(graph),
        )  # fmt: skip
        count = _reduce(graph, _node(graph, "Cast", [inside], _temporary(graph), to=TensorProto.FLOAT), "ReduceMax")
        return _against(graph, count, "Greater", 0.5)

    return compute


def _smooth(graph: Graph, name: str) -> str:
    """Neighbors along the last axis differ by less than a tenth of the range, as in a picture."""
    ends = [_store(graph, np.array([item])) for item in (1, 1 << 40, -1, 0, -1)]
    right = _node(graph, "Slice", [name, ends[0], ends[1], ends[2]], _temporary(graph))
    left = _node(graph, "Slice", [name, ends[3], ends[4], ends[2]], _temporary(graph))
    step = _node(graph, "Abs", [_node(graph, "Sub", [right, left], _temporary(graph))], _temporary(graph))
    wide = _node(
        graph, "Sub", [_reduce(graph, name, "ReduceMax"), _reduce(graph, name, "ReduceMin")], _temporary(graph)
    )
    bound = _node(graph, "Mul", [wide, _store(graph, np.float32(0.1))], _temporary(graph))
    calm = _node(graph, "Less", [_reduce(graph, step, "ReduceMean"), bound], _temporary(graph))
    return _node(graph, "And", [calm, _against(graph, wide, "Greater", 0.0)], _temporary(graph))


def _first_true(graph: Graph, name: str) -> str:
    """The mask is true at the first place of every row."""
    start = _node(graph, "Gather", [name, _store(graph, np.array(0))], _temporary(graph), axis=1)
    return _against(graph, _reduce(graph, start, "ReduceMin"), "Greater", 0.5)


VALUES: Mapping[str, Condition] = {
    "the smallest value is not negative": _floats(_statistic("ReduceMin", "GreaterOrEqual", 0.0)),
    "the largest value is negative": _only_floats(_statistic("ReduceMax", "Less", 0.0)),
    "the largest value is above 6": _floats(_statistic("ReduceMax", "Greater", 6.0)),
    "the largest value is above 20": _floats(_statistic("ReduceMax", "Greater", 20.0)),
    "the smallest value is below -20": _only_floats(_statistic("ReduceMin", "Less", -20.0)),
    "all values are zero": _floats(_largest("Equal", 0.0)),
    "all values are equal": _floats(_spread("Equal", 0.0)),
    "all values are equal but not zero": _floats(_all(_spread("Equal", 0.0), _largest("Greater", 0.0))),
    "the mean is above 0.5": _only_floats(_statistic("ReduceMean", "Greater", 0.5)),
    "the mean is below -0.5": _only_floats(_statistic("ReduceMean", "Less", -0.5)),
    "the mean is above 0.2": _only_floats(_statistic("ReduceMean", "Greater", 0.2)),
    "no value is above 0.02": _only_floats(_largest("Less", 0.02)),
    "all values lie in 0 to 1": _only_floats(
        _all(_statistic("ReduceMin", "GreaterOrEqual", 0.0), _statistic("ReduceMax", "LessOrEqual", 1.0))
    ),
    "values look like bytes": _floats(
        _all(_statistic("ReduceMin", "GreaterOrEqual", 0.0), _statistic("ReduceMax", "Greater", 100.0))
    ),
    "the spread is below 1.5": _only_floats(_spread("Less", 1.5)),
    "values are smooth": _floats(_smooth),
    "a value lies between 2 and 2.2": _floats(_contains(2.0, 2.2)),
    "an id is 2 or more": _ids(_statistic("ReduceMax", "GreaterOrEqual", 2.0)),
    "the last id occurs": _ids(_statistic("ReduceMax", "Equal", 499.0)),
    "id 0 occurs": _ids(_statistic("ReduceMin", "Equal", 0.0)),
    "an id lies between 250 and 260": _ids(_contains(250.0, 260.0)),
    "all ids are equal": _ids(_spread("Equal", 0.0)),
    "all ids are below 100": _ids(_statistic("ReduceMax", "Less", 100.0)),
    "the mask is all true": _mask(_statistic("ReduceMin", "Greater", 0.5)),
    "the mask is all false": _mask(_statistic("ReduceMax", "Less", 0.5)),
    "the mask is true at the beginning": _mask(_first_true),
    "the mask is true once": _mask(_statistic("ReduceSum", "Equal", 1.0)),
    "a fifth of the mask at most is true": _mask(
        _all(_statistic("ReduceMean", "Less", 0.2), _statistic("ReduceMax", "Greater", 0.5))
    ),
}
"""Conditions on the values of the first input of a type."""


def _size(axis_of: Callable[[Graph], int | None], test: Callable[[Graph, str], str]) -> Condition:
    def add(graph: Graph, rng: Rng) -> str | None:
        axis = axis_of(graph)
        if axis is None:
            return None
        shape = _node(graph, "Shape", [graph.input[0].name], _temporary(graph))
        size = _node(graph, "Gather", [shape, _store(graph, np.array(axis))], _temporary(graph))
        return test(graph, _node(graph, "Cast", [size], _temporary(graph), to=TensorProto.FLOAT))

    return add


def _open_axes(graph: Graph, *, batch: bool) -> list[int]:
    dims = graph.input[0].type.tensor_type.shape.dim
    return [axis for axis, dim in enumerate(dims) if dim.dim_param and (dim.dim_param == "batch") == batch]


def _batch_axis(graph: Graph) -> int | None:
    return next(iter(_open_axes(graph, batch=True)), None)


def _other_axis(graph: Graph) -> int | None:
    return next(iter(_open_axes(graph, batch=False)), None)


def _is(operator: str, bound: float) -> Callable[[Graph, str], str]:
    return lambda graph, name: _against(graph, name, operator, bound)


def _modulo(graph: Graph, name: str, number: float) -> str:
    return _node(graph, "Mod", [name, _store(graph, np.float32(number))], _temporary(graph), fmod=1)


def _odd(graph: Graph, name: str) -> str:
    return _against(graph, _modulo(graph, name, 2.0), "Equal", 1.0)


def _even(graph: Graph, name: str) -> str:
    return _against(graph, _modulo(graph, name, 2.0), "Equal", 0.0)


def _unequal_sides(graph: Graph, rng: Rng) -> str | None:
    axes = _open_axes(graph, batch=False)
    if len(axes) < 2:
        return None
    shape = _node(graph, "Shape", [graph.input[0].name], _temporary(graph))
    sizes = [_node(graph, "Gather", [shape, _store(graph, np.array(axis))], _temporary(graph)) for axis in axes[:2]]
    return _node(graph, "Not", [_node(graph, "Equal", sizes, _temporary(graph))], _temporary(graph))


SIZES: Mapping[str, Condition] = {
    "the size is odd": _size(_other_axis, _odd),
    "the size is below the traced one": _size(_other_axis, _is("Less", 8.0)),
    "the size is above 40": _size(_other_axis, _is("Greater", 40.0)),
    "the size is above the traced one": _size(_other_axis, _is("Greater", 33.0)),
    "the size is not a multiple of 4": _size(
        _other_axis,
        lambda graph, name: _against(
            graph,
            _node(graph, "Mod", [name, _store(graph, np.float32(4.0))], _temporary(graph), fmod=1),
            "Greater",
            0.0,
        ),
    ),
    "the sides differ": _unequal_sides,
}
BATCHES: Mapping[str, Condition] = {
    "the batch is 1": _size(_batch_axis, _is("Equal", 1.0)),
    "the batch is 2": _size(_batch_axis, _is("Equal", 2.0)),
    "the batch is 4 or more": _size(_batch_axis, _is("GreaterOrEqual", 4.0)),
    "the batch is 4": _size(_batch_axis, _is("Equal", 4.0)),
    "the batch is 8 or more": _size(_batch_axis, _is("GreaterOrEqual", 8.0)),
    "the batch is 9 or more": _size(_batch_axis, _is("GreaterOrEqual", 9.0)),
    "the batch is odd and above 6": _size(
        _batch_axis,
        lambda graph, name: _node(
            graph, "And", [_odd(graph, name), _is("Greater", 6.0)(graph, name)], _temporary(graph)
        ),
    ),
    "the batch is even": _size(
        _batch_axis, lambda graph, name: _node(graph, "Not", [_odd(graph, name)], _temporary(graph))
    ),
}


def _with(operator: str, constant: float) -> Callable[[Graph, str], str]:
    return lambda graph, name: _node(graph, operator, [name, _store(graph, np.float32(constant))], _temporary(graph))


CORRUPTIONS: Mapping[str, Callable[[Graph, str], str]] = {
    "negated": lambda graph, name: _node(graph, "Neg", [name], _temporary(graph)),
    "NaN": _with("Mul", np.nan),
    "scaled by 1.01": _with("Mul", 1.01),
    "zero": _with("Mul", 0.0),
    "shifted": _with("Add", 0.1),
}


def _conditional(condition: Condition, corruption: str, mechanism: str) -> Plant:
    """Corrupt an output where a condition holds, by ``Where``, ``If`` or arithmetic."""

    def plant(graph: Graph, rng: Rng) -> bool:
        if (holds := condition(graph, rng)) is None:
            return False
        taken = _take_output(graph, rng)
        if taken is None:
            return False
        value, source = taken
        integer = value.type.tensor_type.elem_type != TensorProto.FLOAT
        if integer:
            wrong = _node(graph, "Add", [source, _store(graph, np.array(1))], _temporary(graph))
        else:
            wrong = CORRUPTIONS[corruption](graph, source)
        if mechanism == "If":
            bodies = []
            for name in (wrong, source):
                inner = helper.make_node("Identity", [name], [f"{PLANTED}{name}_out"])
                info = helper.make_tensor_value_info(inner.output[0], value.type.tensor_type.elem_type, None)
                bodies.append(helper.make_graph([inner], PLANTED + name, [], [info]))
            graph.node.append(
                helper.make_node(
                    "If", [holds], [value.name], f"{PLANTED}if", then_branch=bodies[0], else_branch=bodies[1]
                )
            )
        elif mechanism == "arithmetic" and not integer and corruption != "NaN":
            share = _node(graph, "Cast", [holds], _temporary(graph), to=TensorProto.FLOAT)
            gap = _node(graph, "Sub", [wrong, source], _temporary(graph))
            _node(graph, "Add", [source, _node(graph, "Mul", [gap, share], _temporary(graph))], value.name)
        else:
            _node(graph, "Where", [holds, wrong, source], value.name)
        return True

    return plant


# Faults of the batch as a whole


def _rows(order: Callable[[Graph, str, str], str]) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        taken = _take_output(graph, rng)
        if taken is None:
            return False
        value, source = taken
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != "batch":
            return False
        shape = _node(graph, "Shape", [source], _temporary(graph), start=0, end=1)
        count = _node(graph, "Squeeze", [shape], _temporary(graph))
        zero, one = _store(graph, np.array(0)), _store(graph, np.array(1))
        indices = _node(graph, "Range", [zero, count, one], _temporary(graph))
        _node(graph, "Gather", [source, order(graph, indices, count)], value.name, axis=0)
        return True

    return plant


def _first_row(graph: Graph, indices: str, count: str) -> str:
    return _node(graph, "Mul", [indices, _store(graph, np.array(0))], _temporary(graph))


def _reversed_rows(graph: Graph, indices: str, count: str) -> str:
    last = _node(graph, "Sub", [count, _store(graph, np.array(1))], _temporary(graph))
    return _node(graph, "Sub", [last, indices], _temporary(graph))


def _at_most(limit: int) -> Callable[[Graph, str, str], str]:
    def order(graph: Graph, indices: str, count: str) -> str:
        return _node(graph, "Min", [indices, _store(graph, np.array(limit))], _temporary(graph))

    return order


def _reverse_along(axis: int) -> Adder:
    def add(graph: Graph, source: str, target: str, value: onnx.ValueInfoProto) -> bool:
        if len(value.type.tensor_type.shape.dim) <= axis:
            return False
        bounds = [_store(graph, np.array([item])) for item in (-1, -(1 << 40), axis, -1)]
        _node(graph, "Slice", [source, *bounds], target)
        return True

    return add


# Tables


def _table(change: Callable[[Array, Rng], Array]) -> Plant:
    def plant(graph: Graph, rng: Rng) -> bool:
        stored = _stored(graph)
        names = [node.input[0] for node in _nodes(graph, "Gather") if node.input[0] in stored]
        tables = [stored[name] for name in names if len(stored[name].dims) == 2 and stored[name].dims[0] > 8]
        tensor = _pick(rng, [item for item in tables if item.data_type == TensorProto.FLOAT])
        if tensor is None:
            return False
        _set(tensor, change(numpy_helper.to_array(tensor).copy(), rng))
        return True

    return plant


def _zero_rows(low: float, high: float) -> Callable[[Array, Rng], Array]:
    def change(table: Array, rng: Rng) -> Array:
        table[int(low * len(table)) : max(int(high * len(table)), int(low * len(table)) + 1)] = 0
        return table

    return change


def _permuted_rows(table: Array, rng: Rng) -> Array:
    return np.concatenate([table[:2], rng.permutation(table[2:])])


def _one_row(table: Array, rng: Rng) -> Array:
    table[int(rng.integers(2, len(table)))] *= 1.1
    return table


STATIC: Mapping[str, Plant] = {
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
TABLES: Mapping[str, Plant] = {
    "rows from 2 on zeroed": _table(_zero_rows(0.004, 1.0)),
    "last tenth of the rows zeroed": _table(_zero_rows(0.9, 1.0)),
    "last row zeroed": _table(_zero_rows(0.999, 1.0)),
    "rows permuted": _table(_permuted_rows),
    "rows shifted by one": _table(lambda table, rng: np.roll(table, 1, 0)),
    "one row scaled by 1.1": _table(_one_row),
    "rows cut off": _table(lambda table, rng: table[: len(table) // 2]),
}
CHANCE: Mapping[str, Plant] = {
    "noise of 0.01": _output(_random(0.01)),
    "noise of 0.0001": _output(_random(1e-4)),
    "rare wrong signs": _output(_random_signs),
    "dropout after an activation": _dropout(("Relu", "Gelu", "Clip", "Tanh", "LeakyRelu", "Softmax", "GRU", "LSTM")),
    "dropout of a projection": _dropout(("Gemm", "MatMul")),
}
DTYPES: Mapping[str, Plant] = {
    "float64 for float32": _output(_to_dtype(TensorProto.DOUBLE)),
    "float16 for float32": _output(_to_dtype(TensorProto.FLOAT16)),
    "int32 for int64": _output(_to_dtype(TensorProto.INT32), integers=True),
    "float for integers": _output(_to_dtype(TensorProto.FLOAT), integers=True),
    "an axis more at the end": _output(_rank(-1), integers=None),
    "an axis more at the beginning": _output(_rank(0), integers=None),
}
WHOLE_BATCH: Mapping[str, Plant] = {
    "every row is the first": _rows(_first_row),
    "rows reversed": _rows(_reversed_rows),
    "rows from the fourth on repeat it": _rows(_at_most(3)),
    "rows from the eighth on repeat it": _rows(_at_most(7)),
}


def _kinds() -> tuple[Kind, ...]:
    """Return all kinds; conditions are combined with corruptions and mechanisms in turn."""
    groups = {"static": STATIC, "table": TABLES, "chance": CHANCE, "dtype": DTYPES, "batch": WHOLE_BATCH}
    kinds = [Kind(name, category, plant) for category, group in groups.items() for name, plant in group.items()]
    corruptions, mechanisms = list(CORRUPTIONS), ("Where", "If", "arithmetic")
    for category, conditions in (("input", VALUES), ("size", SIZES), ("batch", BATCHES)):
        for index, (name, condition) in enumerate(conditions.items()):
            for turn in range(2):
                corruption = corruptions[(index + 2 * turn) % len(corruptions)]
                mechanism = mechanisms[(index + turn) % len(mechanisms)]
                title = f"{corruption} where {name}, by {mechanism}"
                kinds.append(Kind(title, category, _conditional(condition, corruption, mechanism)))
    return tuple(kinds)


KINDS = _kinds()
