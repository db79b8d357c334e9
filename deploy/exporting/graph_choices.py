"""The discrete choices of an ONNX graph: which nodes make them, and what they chose in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.core.runner import Fetches
from deploy.parity.choices import Choice, largest

Array = NDArray[Any]

_COMPARED = {"Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le", "Equal": "eq"}
_STEPPED = {"Floor": "floor", "Ceil": "ceil", "Round": "round", "Sign": "sign", "Cast": "trunc"}
_SHAPE_ONLY = ("Shape", "Size")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceNode:
    """A node of the graph that makes a choice.

    Attributes:
        inputs: tensors that it chooses by.
        result: its indices, booleans or steps.
        below: graph outputs that are computed from it.
        above: results of choices that its inputs are computed from.
    """

    operator: str
    inputs: tuple[str, ...]
    result: str
    below: tuple[str, ...]
    above: frozenset[str]
    axis: int = 0
    sign: float = 1.0
    ordered: bool = True
    rule: str = ""


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def survey(model: onnx.ModelProto) -> tuple[list[ChoiceNode], frozenset[str], bool]:
    """Read which choices a graph makes.

    Returns:
        The choices on the way to an output; the outputs that do not depend on values of the inputs; whether there may
        be choices inside of branches, loops and functions.
    """
    graph = model.graph
    stored = {item.name for item in graph.initializer}
    dependent = {item.name for item in graph.input} - stored
    below: dict[str, set[str]] = {item.name: {item.name} for item in graph.output}
    used = {item.name for item in graph.output} | {name for node in graph.node for name in _reads(node)}
    nodes = _in_order(graph)
    for node in nodes:
        if node.op_type not in _SHAPE_ONLY and dependent.intersection(_reads(node)):
            dependent.update(node.output)
    above: dict[str, set[str]] = {}
    for node in nodes:
        higher = set().union(*(above.get(name, set()) for name in _reads(node)))
        result = (_node(node, used) or {}).get("result")
        above.update((name, higher | {result} if result else higher) for name in node.output)
    for node in reversed(nodes):
        reached = set().union(*(below.get(name, set()) for name in node.output))
        for name in _reads(node):
            below.setdefault(name, set()).update(reached)
    found = []
    order = [item.name for item in graph.output]
    for node in nodes:
        kind = _node(node, used)
        if kind is None or not dependent.intersection(node.input):
            continue
        reached = set().union(*(below.get(name, set()) for name in node.output))
        if reached:
            upstream = frozenset(one for name in kind["inputs"] for one in above.get(name, ()))
            found.append(ChoiceNode(below=tuple(name for name in order if name in reached), above=upstream, **kind))
    inner = any(item.type == onnx.AttributeProto.GRAPH for node in graph.node for item in node.attribute)
    fixed = frozenset(name for name in order if name not in dependent)
    return found, fixed, inner or bool(model.functions)


def _in_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes in an order of execution; ONNX Runtime's converter writes them in another."""
    made_by = {name: index for index, node in enumerate(graph.node) for name in node.output}
    needs = {
        index: [made_by[name] for name in sorted(_reads(node)) if name in made_by]
        for index, node in enumerate(graph.node)
    }
    return [graph.node[index] for index in TopologicalSorter(needs).static_order()]


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that a node reads, also within its branches."""
    names = set(node.input) - {""}
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                names |= _reads(inner)
    return names


def _node(node: onnx.NodeProto, used: set[str]) -> dict[str, Any] | None:
    kind = node.op_type
    if node.domain not in ("", "ai.onnx"):
        return None
    if kind in ("ArgMax", "ArgMin"):
        sign = 1.0 if kind == "ArgMax" else -1.0
        axis = _attribute(node, "axis", 0)
        return {"operator": kind, "inputs": (node.input[0],), "result": node.output[0], "axis": axis, "sign": sign}
    if kind == "TopK" and len(node.output) > 1 and node.output[1] in used:
        return {
            "operator": kind,
            "inputs": (node.input[0],),
            "result": node.output[1],
            "axis": _attribute(node, "axis", -1),
            "sign": 1.0 if _attribute(node, "largest", 1) else -1.0,
            "ordered": bool(_attribute(node, "sorted", 1)),
        }
    if kind in _COMPARED:
        return {"operator": kind, "inputs": tuple(node.input), "result": node.output[0], "rule": _COMPARED[kind]}
    if kind in _STEPPED and (kind != "Cast" or _attribute(node, "to", 0) in _CAST_TO):
        rule = "ne" if kind == "Cast" and _attribute(node, "to", 0) == onnx.TensorProto.BOOL else _STEPPED[kind]
        return {"operator": kind, "inputs": (node.input[0],), "result": node.output[0], "rule": rule}
    if kind == "NonMaxSuppression":
        return {"operator": kind, "inputs": tuple(node.input[:2]), "result": node.output[0]}
    return None


_CAST_TO = (
    onnx.TensorProto.BOOL, onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32,
    onnx.TensorProto.INT64, onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT32,
)  # fmt: skip


def choice_of(node: ChoiceNode, fetched: Fetches, stored: Mapping[str, Array]) -> Choice | None:
    """Return the choice that a node made; None if it chooses by integers, except an order, which may have ties."""
    values = []
    for name in node.inputs:
        value = stored[name] if name in stored else fetched[name]
        if value.dtype.kind not in ("iuf" if node.operator == "TopK" else "f"):
            return None
        values.append(value.astype(np.float64))
    result = fetched[node.result]
    if node.operator == "NonMaxSuppression":
        if values[0].ndim != 3 or len(values[0]) != 1 or values[1].shape[:2] != (1, 1):
            return None
        return Choice(kind="boxes", boxes=values[0][0], scores=values[1][0, 0], result=result[:, 2].astype(np.int64))
    if node.operator in _COMPARED:
        with np.errstate(invalid="ignore"):
            gap = np.asarray(values[0] - values[1])
        return Choice(kind="comparison", rule=node.rule, scores=gap, result=result)
    if node.rule:
        kind = "comparison" if node.rule == "ne" else "step"
        kept = result if kind == "comparison" else result.astype(np.float64)
        return Choice(kind=kind, rule=node.rule, scores=values[0], result=kept)
    scores, axis = node.sign * values[0], node.axis % max(values[0].ndim, 1)
    if node.operator == "TopK":
        return Choice(kind="order", scores=scores, result=result, axis=axis, ordered=node.ordered)
    return largest(scores, result, axis)
