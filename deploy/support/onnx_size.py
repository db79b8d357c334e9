"""The size of a graph when all its functions are expanded, from the graph of calls alone: nothing is expanded."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from deploy.core.errors import ArtifactError
from deploy.core.limits import how_to_raise, limits

_Key = tuple[str, str, str]
"""Domain, name and overload of a function."""
_MAIN = ("", "", "")


@dataclass(slots=True)
class _Body:
    """The nodes of the graph or of one function, with those of their subgraphs.

    Attributes:
        depth: nesting of subgraphs.
        calls: for each function that is called, the number of calls and their deepest nesting.
    """

    nodes: int = 0
    depth: int = 1
    calls: dict[_Key, tuple[int, int]] = field(default_factory=dict)


def check_size(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph that is too large or nested too deeply when its functions are expanded.

    Raises:
        ArtifactError: the graph exceeds a limit, a function calls itself, or two functions have one name.
    """
    functions = {_key(item.domain, item.name, item.overload): item for item in model.functions}
    if len(functions) < len(model.functions):
        raise ArtifactError(f"{path}: two functions have the same name.")
    training = (graph for item in model.training_info for graph in (item.initialization, item.algorithm))
    bodies = {key: _read(path, [function.node], functions) for key, function in functions.items()}
    bodies[_MAIN] = _read(path, [model.graph.node, *(graph.node for graph in training)], functions)
    expanded: dict[_Key, tuple[int, int]] = {}
    for key in bodies:
        _expand(path, key, bodies, expanded)


def _key(domain: str, name: str, overload: str) -> _Key:
    return "" if domain == "ai.onnx" else domain, name, overload


def _read(path: Path, graphs: Iterable[Iterable[onnx.NodeProto]], functions: Collection[_Key]) -> _Body:
    body, most = _Body(), limits().onnx_nodes
    pending = [(nodes, 1) for nodes in graphs]
    while pending:
        nodes, level = pending.pop()
        body.depth = max(body.depth, level)
        for node in nodes:
            body.nodes += 1
            if body.nodes > most:
                raise _too_large(path)
            if functions and (key := _key(node.domain, node.op_type, node.overload)) in functions:
                count, deepest = body.calls.get(key, (0, 0))
                body.calls[key] = count + 1, max(deepest, level)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append((attribute.g.node, level + 1))
                pending.extend((graph.node, level + 1) for graph in attribute.graphs)
    return body


def _expand(path: Path, root: _Key, bodies: dict[_Key, _Body], expanded: dict[_Key, tuple[int, int]]) -> None:
    """Add the number of nodes and the depth of a body and of all that it calls to ``expanded``."""
    stack, active = [root], set[_Key]()
    while stack:
        key = stack[-1]
        if key in expanded:
            stack.pop()
            continue
        active.add(key)
        body = bodies[key]
        missing = [callee for callee in body.calls if callee not in expanded]
        if active.intersection(missing):
            raise ArtifactError(f"{path}: the function {key[1]!r} calls itself.")
        if missing:
            stack.extend(missing)
            continue
        nodes = body.nodes + sum(count * expanded[callee][0] for callee, (count, _) in body.calls.items())
        depth = max([body.depth, *(level + expanded[callee][1] for callee, (_, level) in body.calls.items())])
        if nodes > limits().onnx_nodes:
            raise _too_large(path)
        if depth > limits().onnx_depth:
            raise ArtifactError(f"{path}: subgraphs and functions are nested too deeply.", how_to_raise("onnx_depth"))
        expanded[key] = nodes, depth
        active.remove(key)


def _too_large(path: Path) -> ArtifactError:
    return ArtifactError(f"{path}: the graph has too many nodes.", how_to_raise("onnx_nodes"))
