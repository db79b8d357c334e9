"""The data-dependent choices in a graph, and a copy of the graph that reports which sides of them a run takes.

A choice is a branch, a loop, a mask, a comparison, or an operator that is defined piecewise (ReLU, clip). For each one
the copy reports the smallest and the largest value that decides it; both are scalars, so that a run costs little more
memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx.inliner
from onnx import helper

from deploy.support.onnx_modules import scope
from deploy.support.sides import taken

Graph = onnx.GraphProto
Node = onnx.NodeProto

CONSTANT, SIZE, DATA = 0, 1, 2
"""What a tensor depends on: nothing, the sizes of the inputs, or their values."""

RANGES = "coverage:ranges"
"""Output of the copy: for each choice the smallest and the largest value, float32 [choices, 2]."""

_BELOW_ABOVE_ZERO = ("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu")
_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "IsNaN", "IsInf")
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphChoice:
    """A choice of a graph.

    Attributes:
        node, operator: the node that makes it.
        module: the module that the node belongs to, as the exporter recorded it; empty if it did not.
        kind: ``branch``, ``loop``, ``mask``, ``comparison``, ``activation`` or ``clip``.
        by: ``data``, or ``size`` where only the sizes of the inputs decide.
        sides: the names of its sides, in the order of their values.
        bounds: the values that separate the sides.
        nodes: for a branch or loop, the number of nodes that only the side runs, by side.
        inside: the sides that must be taken for the node to run, as (index of the choice, side).
    """

    node: str
    operator: str
    module: str
    kind: str
    by: str
    sides: tuple[str, ...]
    bounds: tuple[float, ...]
    nodes: tuple[int, ...] = ()
    inside: tuple[int, int] | None = None

    def reached(self, low: float, high: float) -> frozenset[str]:
        """Return the sides that values from ``low`` to ``high`` take."""
        return frozenset(self.sides[index] for index in taken(self.bounds, low, high))


@dataclass(slots=True)
class _Recorder:
    """Choices found so far, and the tensors that report them."""

    opset: int
    choices: list[GraphChoice] = field(default_factory=list)
    counter: Iterator[int] = field(default_factory=itertools.count)

    def fresh(self) -> str:
        return f"coverage:{next(self.counter)}"


def watched(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[GraphChoice, ...]]:
    """Return a graph with the output `RANGES`, and its choices; without choices the graph is unchanged.

    The model that is given is changed too, unless it has functions: a copy would hold its weights twice.
    """
    copy = onnx.inliner.inline_local_functions(model) if model.functions else model
    standard = next((item.version for item in copy.opset_import if item.domain in ("", "ai.onnx")), 0)
    recorder = _Recorder(opset=standard)
    stored = {tensor.name for tensor in copy.graph.initializer}
    levels = {value.name: DATA for value in copy.graph.input if value.name not in stored}
    reported = _watch(copy.graph, levels, {}, recorder, None)
    if not reported:
        return copy, ()
    pairs = []
    for low, high in reported:
        for name in (low, high):
            pairs.append(recorder.fresh())
            copy.graph.node.append(helper.make_node("Reshape", [name, "coverage:one"], [pairs[-1]]))
    copy.graph.initializer.append(helper.make_tensor("coverage:one", onnx.TensorProto.INT64, [1], [1]))
    copy.graph.initializer.append(helper.make_tensor("coverage:two", onnx.TensorProto.INT64, [2], [-1, 2]))
    copy.graph.node.append(helper.make_node("Concat", pairs, ["coverage:all"], axis=0))
    copy.graph.node.append(helper.make_node("Reshape", ["coverage:all", "coverage:two"], [RANGES]))
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_tensor_value_info(RANGES, onnx.TensorProto.FLOAT, [len(reported), 2]))
    return copy, tuple(recorder.choices)


def count_nodes(graph: Graph) -> int:
    """Return the number of nodes of a graph, those of its subgraphs included."""
    return sum(1 + sum(count_nodes(inner) for inner in _subgraphs(node)) for node in graph.node)


def _subgraphs(node: Node) -> list[Graph]:
    return [
        inner
        for attribute in node.attribute
        for inner in ([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs)
    ]


Pair = tuple[str, str]
"""Names of two scalar tensors: the smallest and the largest value of a choice."""


Constants = Mapping[str, onnx.TensorProto]


def _watch(
    graph: Graph,
    outer: Mapping[str, int],
    stored: Constants,
    recorder: _Recorder,
    inside: tuple[int, int] | None,
) -> list[Pair]:
    """Add nodes that report the choices of a graph; return the tensors with their values, in the order of choices."""
    levels = {**outer, **{tensor.name: CONSTANT for tensor in graph.initializer}}
    constants = {**stored, **{tensor.name: tensor for tensor in graph.initializer}}
    selectors = {node.input[0] for node in graph.node if node.op_type in ("Where", "If") and node.input}
    reported: list[Pair] = []
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].type == onnx.AttributeProto.TENSOR:
            constants[node.output[0]] = node.attribute[0].t
        level = _level(node, levels)
        found = _choice(node, levels, constants, selectors)
        own = len(recorder.choices)
        extra: list[Node] = []
        if found is not None:
            kind, sides, bounds, value = found
            by = "data" if levels.get(value if isinstance(value, str) else value[0], CONSTANT) == DATA else "size"
            counts = _node_counts(node)
            recorder.choices.append(
                GraphChoice(
                    node=node.name or node.output[0],
                    operator=node.op_type,
                    module=scope(node),
                    kind=kind,
                    by=by,
                    sides=sides,
                    bounds=bounds,
                    nodes=counts,
                    inside=inside,
                )
            )
            added, pair = _extremes(value, recorder)
            reported.append(pair)
            extra.extend(added)
        within, after = _descend(node, levels, constants, recorder, own if found is not None else None, inside)
        reported.extend(within)
        graph.node.append(node)
        graph.node.extend([*extra, *after])
        level = max([level, *(_level_of_branch(inner, levels) for inner in _subgraphs(node))])
        levels.update((name, level) for name in node.output)
    return reported


def _level(node: Node, levels: Mapping[str, int]) -> int:
    highest = max((levels.get(name, CONSTANT) for name in node.input), default=CONSTANT)
    if node.op_type in _RANDOM:
        return DATA
    return min(highest, SIZE) if node.op_type in ("Shape", "Size") else highest


def _level_of_branch(graph: Graph, outer: Mapping[str, int]) -> int:
    levels = dict(outer)
    for node in graph.node:
        level = max([_level(node, levels), *(_level_of_branch(inner, levels) for inner in _subgraphs(node))])
        levels.update((name, level) for name in node.output)
    return max((levels.get(value.name, CONSTANT) for value in graph.output), default=CONSTANT)


Found = tuple[str, tuple[str, ...], tuple[float, ...], str | Pair]
"""Kind, sides, bounds, and the tensor whose values decide; of two tensors, their difference decides."""


def _choice(node: Node, levels: Mapping[str, int], constants: Constants, selectors: set[str]) -> Found | None:
    if not node.input or node.domain not in ("", "ai.onnx"):
        return None
    first, level = node.input[0], levels.get(node.input[0], CONSTANT)
    name = node.op_type
    if name == "If":
        return ("branch", ("else", "then"), (0.5,), first) if level else None
    if name == "Loop":
        return ("loop", ("no iteration", "iterations"), (0.5,), first) if level else None
    if name == "Where":
        chosen = max(levels.get(item, CONSTANT) for item in node.input[1:])
        decides = level == DATA or (level and chosen == DATA)  # a size that chooses among sizes is arithmetic of shapes
        return ("mask", ("false", "true"), (0.5,), first) if decides else None
    if name in _COMPARISONS:
        data = any(levels.get(item) == DATA for item in node.input)
        return (
            ("comparison", ("false", "true"), (0.5,), node.output[0])
            if data and node.output[0] not in selectors
            else None
        )
    if level != DATA and not (name in ("Max", "Min") and any(levels.get(item) == DATA for item in node.input)):
        return None
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if name in _BELOW_ABOVE_ZERO:
        edge = float(attributes.get("alpha", 1.0)) if name == "ThresholdedRelu" else 0.0
        return "activation", (f"below {edge:g}", f"above {edge:g}"), (edge,), first
    if name in ("HardSwish", "HardSigmoid"):
        alpha, beta = (
            (1 / 6, 0.5) if name == "HardSwish" else (attributes.get("alpha", 0.2), attributes.get("beta", 0.5))
        )
        return _between(first, -beta / alpha, (1 - beta) / alpha)
    if name == "Clip":
        return _clip(node, attributes, constants)
    if name in ("Max", "Min") and len(node.input) == 2 and node.input[0] != node.input[1]:
        return "clip", ("first smaller", "first larger"), (0.0,), (node.input[0], node.input[1])
    return None


def _clip(node: Node, attributes: Mapping[str, Any], constants: Constants) -> Found | None:
    edges: list[float | None] = [attributes.get("min"), attributes.get("max")]
    for index, name in enumerate(node.input[1:3]):
        if name in constants:
            edges[index] = float(onnx.numpy_helper.to_array(constants[name]))
        elif name:
            return None  # the bounds are computed
    low = -math.inf if edges[0] is None else edges[0]
    high = math.inf if edges[1] is None else edges[1]
    return _between(node.input[0], low, high)


def _between(name: str, low: float, high: float) -> Found | None:
    edges = tuple(dict.fromkeys(edge for edge in (low, high) if abs(edge) < 3e38))
    if not edges or low > high:
        return None
    middle = ("between",) if len(edges) == 2 else ()
    return "clip", (f"below {edges[0]:g}", *middle, f"above {edges[-1]:g}"), edges, name


def _extremes(value: str | Pair, recorder: _Recorder) -> tuple[list[Node], Pair]:
    """Return nodes that compute the smallest and the largest value of a tensor, or of the difference of two."""
    nodes: list[Node] = []
    if isinstance(value, tuple):
        wide = [recorder.fresh() for _ in value]
        nodes += [_node("Cast", [name], new, to=onnx.TensorProto.FLOAT) for name, new in zip(value, wide, strict=True)]
        source = recorder.fresh()
        nodes.append(_node("Sub", wide, source))
    else:
        source = recorder.fresh()
        nodes.append(_node("Cast", [value], source, to=onnx.TensorProto.FLOAT))
    low, high = recorder.fresh(), recorder.fresh()
    nodes += [_node("ReduceMin", [source], low, keepdims=0), _node("ReduceMax", [source], high, keepdims=0)]
    return nodes, (low, high)


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Node:
    return helper.make_node(operator, inputs, [output], **attributes)


def _node_counts(node: Node) -> tuple[int, ...]:
    if node.op_type == "If":
        return tuple(count_nodes(inner) for inner in _branches(node))
    return (0, *map(count_nodes, _subgraphs(node))) if node.op_type == "Loop" else ()


def _branches(node: Node) -> list[Graph]:
    """Return the graphs of an If in the order of its sides: else, then."""
    graphs = {attribute.name: attribute.g for attribute in node.attribute}
    return [graphs["else_branch"], graphs["then_branch"]]


def _descend(
    node: Node,
    levels: Mapping[str, int],
    constants: Constants,
    recorder: _Recorder,
    own: int | None,
    inside: tuple[int, int] | None,
) -> tuple[list[Pair], list[Node]]:
    """Report the choices within the subgraphs of a node; return the tensors, and the nodes to put after the node."""
    if node.op_type == "If":
        reported: list[Pair] = []
        branches = _branches(node)
        for side, graph in enumerate(branches):
            pairs = _watch(graph, levels, constants, recorder, inside if own is None else (own, side))
            for pair in pairs:
                names = []
                for name, neutral in zip(pair, (math.inf, -math.inf), strict=True):
                    graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
                    other, outer = recorder.fresh(), recorder.fresh()
                    tensor = helper.make_tensor(other, onnx.TensorProto.FLOAT, [], [neutral])
                    branches[1 - side].node.append(helper.make_node("Constant", [], [other], value=tensor))
                    branches[1 - side].output.append(helper.make_tensor_value_info(other, onnx.TensorProto.FLOAT, []))
                    node.output.append(outer)
                    names.append(outer)
                reported.append((names[0], names[1]))
        return reported, []
    if node.op_type in ("Loop", "Scan"):
        return _descend_loop(node, levels, constants, recorder, inside if own is None else (own, 1))
    return [], []


def _descend_loop(
    node: Node,
    levels: Mapping[str, int],
    constants: Constants,
    recorder: _Recorder,
    inside: tuple[int, int] | None,
) -> tuple[list[Pair], list[Node]]:
    body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
    carried = max((levels.get(name, CONSTANT) for name in node.input), default=CONSTANT)
    known = {**levels, **{value.name: carried for value in body.input}}
    if _level_of_branch(body, known) > carried:  # the values of the next iteration depend on more than the first
        known |= {value.name: DATA for value in body.input}
    pairs = _watch(body, known, constants, recorder, inside)
    for attribute in node.attribute:
        if attribute.name in ("scan_output_axes", "scan_output_directions"):
            attribute.ints.extend([0] * 2 * len(pairs))
    reported, after = [], []
    for pair in pairs:
        names = []
        for name, operator, neutral in zip(pair, ("ReduceMin", "ReduceMax"), (math.inf, -math.inf), strict=True):
            body.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
            stacked, constant, joined, result = (recorder.fresh() for _ in range(4))
            node.output.append(stacked)
            tensor = helper.make_tensor(constant, onnx.TensorProto.FLOAT, [1], [neutral])
            after += [
                helper.make_node("Constant", [], [constant], value=tensor),
                _node("Concat", [stacked, constant], joined, axis=0),
                _node(operator, [joined], result, keepdims=0),
            ]
            names.append(result)
        reported.append((names[0], names[1]))
    return reported, after
