"""Faults that show only where a condition on the values, sizes or batch of the input holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks import fault_graph as g

Condition = Callable[[g.Graph, g.Rng], str | None]
"""Add nodes that compute a scalar condition, and return its name; None where it does not apply."""


def _first_input(graph: g.Graph, *dtypes: int) -> onnx.ValueInfoProto | None:
    return next((value for value in graph.input if value.type.tensor_type.elem_type in dtypes), None)


def _values(*dtypes: int) -> Callable[[Callable[[g.Graph, str], str]], Condition]:
    def condition(compute: Callable[[g.Graph, str], str]) -> Condition:
        def add(graph: g.Graph, rng: g.Rng) -> str | None:
            value = _first_input(graph, *dtypes)
            if value is None:
                return None
            wide = g.node(graph, "Cast", [value.name], g.temporary(graph), to=TensorProto.FLOAT)
            return compute(graph, wide)

        return add

    return condition


_floats = _values(TensorProto.FLOAT, TensorProto.UINT8)
_only_floats = _values(TensorProto.FLOAT)
_ids = _values(TensorProto.INT64)
_mask = _values(TensorProto.BOOL)


def _reduce(graph: g.Graph, name: str, operator: str) -> str:
    return g.node(graph, operator, [name], g.temporary(graph), keepdims=0)


def _against(graph: g.Graph, name: str, operator: str, bound: float) -> str:
    return g.node(graph, operator, [name, g.store(graph, np.float32(bound))], g.temporary(graph))


def _statistic(reduction: str, operator: str, bound: float) -> Callable[[g.Graph, str], str]:
    return lambda graph, name: _against(graph, _reduce(graph, name, reduction), operator, bound)


def _all(*parts: Callable[[g.Graph, str], str]) -> Callable[[g.Graph, str], str]:
    def compute(graph: g.Graph, name: str) -> str:
        result = parts[0](graph, name)
        for part in parts[1:]:
            result = g.node(graph, "And", [result, part(graph, name)], g.temporary(graph))
        return result

    return compute


def _largest(operator: str, bound: float) -> Callable[[g.Graph, str], str]:
    def compute(graph: g.Graph, name: str) -> str:
        size = g.node(graph, "Abs", [name], g.temporary(graph))
        return _against(graph, _reduce(graph, size, "ReduceMax"), operator, bound)

    return compute


def _spread(operator: str, bound: float) -> Callable[[g.Graph, str], str]:
    def compute(graph: g.Graph, name: str) -> str:
        ends = [_reduce(graph, name, "ReduceMax"), _reduce(graph, name, "ReduceMin")]
        return _against(graph, g.node(graph, "Sub", ends, g.temporary(graph)), operator, bound)

    return compute


def _contains(low: float, high: float) -> Callable[[g.Graph, str], str]:
    def compute(graph: g.Graph, name: str) -> str:
        inside = g.node(
            graph, "And",
            [_against(graph, name, "GreaterOrEqual", low), _against(graph, name, "LessOrEqual", high)],
            g.temporary(graph),
        )  # fmt: skip
        count = _reduce(graph, g.node(graph, "Cast", [inside], g.temporary(graph), to=TensorProto.FLOAT), "ReduceMax")
        return _against(graph, count, "Greater", 0.5)

    return compute


def _smooth(graph: g.Graph, name: str) -> str:
    """Neighbors along the last axis differ by less than a tenth of the range, as in a picture."""
    ends = [g.store(graph, np.array([item])) for item in (1, 1 << 40, -1, 0, -1)]
    right = g.node(graph, "Slice", [name, ends[0], ends[1], ends[2]], g.temporary(graph))
    left = g.node(graph, "Slice", [name, ends[3], ends[4], ends[2]], g.temporary(graph))
    step = g.node(graph, "Abs", [g.node(graph, "Sub", [right, left], g.temporary(graph))], g.temporary(graph))
    wide = g.node(
        graph, "Sub", [_reduce(graph, name, "ReduceMax"), _reduce(graph, name, "ReduceMin")], g.temporary(graph)
    )
    bound = g.node(graph, "Mul", [wide, g.store(graph, np.float32(0.1))], g.temporary(graph))
    calm = g.node(graph, "Less", [_reduce(graph, step, "ReduceMean"), bound], g.temporary(graph))
    return g.node(graph, "And", [calm, _against(graph, wide, "Greater", 0.0)], g.temporary(graph))


def _first_true(graph: g.Graph, name: str) -> str:
    """The mask is true at the first place of every row."""
    start = g.node(graph, "Gather", [name, g.store(graph, np.array(0))], g.temporary(graph), axis=1)
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


def _size(axis_of: Callable[[g.Graph], int | None], test: Callable[[g.Graph, str], str]) -> Condition:
    def add(graph: g.Graph, rng: g.Rng) -> str | None:
        axis = axis_of(graph)
        if axis is None:
            return None
        shape = g.node(graph, "Shape", [graph.input[0].name], g.temporary(graph))
        size = g.node(graph, "Gather", [shape, g.store(graph, np.array(axis))], g.temporary(graph))
        return test(graph, g.node(graph, "Cast", [size], g.temporary(graph), to=TensorProto.FLOAT))

    return add


def _open_axes(graph: g.Graph, *, batch: bool) -> list[int]:
    dims = graph.input[0].type.tensor_type.shape.dim
    return [axis for axis, dim in enumerate(dims) if dim.dim_param and (dim.dim_param == "batch") == batch]


def _batch_axis(graph: g.Graph) -> int | None:
    return next(iter(_open_axes(graph, batch=True)), None)


def _other_axis(graph: g.Graph) -> int | None:
    return next(iter(_open_axes(graph, batch=False)), None)


def _is(operator: str, bound: float) -> Callable[[g.Graph, str], str]:
    return lambda graph, name: _against(graph, name, operator, bound)


def _modulo(graph: g.Graph, name: str, number: float) -> str:
    return g.node(graph, "Mod", [name, g.store(graph, np.float32(number))], g.temporary(graph), fmod=1)


def _odd(graph: g.Graph, name: str) -> str:
    return _against(graph, _modulo(graph, name, 2.0), "Equal", 1.0)


def _even(graph: g.Graph, name: str) -> str:
    return _against(graph, _modulo(graph, name, 2.0), "Equal", 0.0)


def _unequal_sides(graph: g.Graph, rng: g.Rng) -> str | None:
    axes = _open_axes(graph, batch=False)
    if len(axes) < 2:
        return None
    shape = g.node(graph, "Shape", [graph.input[0].name], g.temporary(graph))
    sizes = [g.node(graph, "Gather", [shape, g.store(graph, np.array(axis))], g.temporary(graph)) for axis in axes[:2]]
    return g.node(graph, "Not", [g.node(graph, "Equal", sizes, g.temporary(graph))], g.temporary(graph))


SIZES: Mapping[str, Condition] = {
    "the size is odd": _size(_other_axis, _odd),
    "the size is below the traced one": _size(_other_axis, _is("Less", 8.0)),
    "the size is above 40": _size(_other_axis, _is("Greater", 40.0)),
    "the size is above the traced one": _size(_other_axis, _is("Greater", 33.0)),
    "the size is not a multiple of 4": _size(
        _other_axis,
        lambda graph, name: _against(
            graph,
            g.node(graph, "Mod", [name, g.store(graph, np.float32(4.0))], g.temporary(graph), fmod=1),
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
        lambda graph, name: g.node(
            graph, "And", [_odd(graph, name), _is("Greater", 6.0)(graph, name)], g.temporary(graph)
        ),
    ),
    "the batch is even": _size(
        _batch_axis, lambda graph, name: g.node(graph, "Not", [_odd(graph, name)], g.temporary(graph))
    ),
}


def _with(operator: str, constant: float) -> Callable[[g.Graph, str], str]:
    return lambda graph, name: g.node(graph, operator, [name, g.store(graph, np.float32(constant))], g.temporary(graph))


CORRUPTIONS: Mapping[str, Callable[[g.Graph, str], str]] = {
    "negated": lambda graph, name: g.node(graph, "Neg", [name], g.temporary(graph)),
    "NaN": _with("Mul", np.nan),
    "scaled by 1.01": _with("Mul", 1.01),
    "zero": _with("Mul", 0.0),
    "shifted": _with("Add", 0.1),
}


def conditional(condition: Condition, corruption: str, mechanism: str) -> g.Plant:
    """Corrupt an output where a condition holds, by ``Where``, ``If`` or arithmetic."""

    def plant(graph: g.Graph, rng: g.Rng) -> bool:
        if (holds := condition(graph, rng)) is None:
            return False
        taken = g.take_output(graph, rng)
        if taken is None:
            return False
        value, source = taken
        integer = value.type.tensor_type.elem_type != TensorProto.FLOAT
        if integer:
            wrong = g.node(graph, "Add", [source, g.store(graph, np.array(1))], g.temporary(graph))
        else:
            wrong = CORRUPTIONS[corruption](graph, source)
        if mechanism == "If":
            bodies = []
            for name in (wrong, source):
                inner = helper.make_node("Identity", [name], [f"{g.PLANTED}{name}_out"])
                info = helper.make_tensor_value_info(inner.output[0], value.type.tensor_type.elem_type, None)
                bodies.append(helper.make_graph([inner], g.PLANTED + name, [], [info]))
            graph.node.append(
                helper.make_node(
                    "If", [holds], [value.name], f"{g.PLANTED}if", then_branch=bodies[0], else_branch=bodies[1]
                )
            )
        elif mechanism == "arithmetic" and not integer and corruption != "NaN":
            share = g.node(graph, "Cast", [holds], g.temporary(graph), to=TensorProto.FLOAT)
            gap = g.node(graph, "Sub", [wrong, source], g.temporary(graph))
            g.node(graph, "Add", [source, g.node(graph, "Mul", [gap, share], g.temporary(graph))], value.name)
        else:
            g.node(graph, "Where", [holds, wrong, source], value.name)
        return True

    return plant
