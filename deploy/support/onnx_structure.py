"""What a graph's nodes read and compute: every tensor has one origin, and no node needs its own result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from deploy.core.errors import ArtifactError
from deploy.core.names import repeated

_AGAIN = "export the model again"


def check_structure(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph that no runtime can order: names that stand for two tensors or for none, and cycles.

    Nodes may come in any order.

    Raises:
        ArtifactError: two inputs or outputs have one name, a tensor is computed twice or never, or there is a cycle.
    """
    for kind, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
        if same := repeated(value.name for value in values):
            raise ArtifactError(f"{path}: two {kind} have the name {same[0]!r}.", f"{_AGAIN}, with a name for each")
    _check_graph(model.graph, frozenset(), path)
    for function in model.functions:
        _Scope(tuple(function.node), tuple(function.input), tuple(function.output), path).check(frozenset())


def _check_graph(graph: onnx.GraphProto, outer: frozenset[str], path: Path) -> None:
    _scope(graph, path).check(outer)


def _scope(graph: onnx.GraphProto, path: Path) -> _Scope:
    stored = (item.name for item in graph.initializer), (item.values.name for item in graph.sparse_initializer)
    given = {value.name for value in graph.input}.union(*stored)
    return _Scope(tuple(graph.node), tuple(given), tuple(value.name for value in graph.output), path)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


@dataclass(frozen=True, slots=True)
class _Scope:
    """The nodes of a graph, subgraph or function.

    Attributes:
        given: tensors that no node computes: inputs and stored tensors.
        results: names of its outputs.
    """

    nodes: Sequence[onnx.NodeProto]
    given: Sequence[str]
    results: Sequence[str]
    path: Path

    def check(self, outer: frozenset[str]) -> None:
        """Check the nodes; ``outer`` are the tensors of the graphs around them."""
        origin: dict[str, int] = {}
        given = set(self.given)
        for index, node in enumerate(self.nodes):
            for name in filter(None, node.output):
                if name in origin or name in given:
                    raise ArtifactError(
                        f"{self.path}: the tensor {name!r}, which {_named(node)} computes, has another origin too.",
                        _AGAIN,
                    )
                origin[name] = index
        known = outer.union(given, origin)
        for node in self.nodes:
            for graph in _subgraphs(node):
                _check_graph(graph, known, self.path)
            if missing := next((name for name in node.input if name and name not in known), None):
                raise ArtifactError(
                    f"{self.path}: {_named(node)} reads the tensor {missing!r}, which nothing computes.", _AGAIN
                )
        if missing := next((name for name in self.results if name and name not in known), None):
            raise ArtifactError(f"{self.path}: nothing computes the output {missing!r}.", _AGAIN)
        self._check_order(origin)

    def _check_order(self, origin: dict[str, int]) -> None:
        """Order the nodes as Kahn does (Communications of the ACM 5, 1962, p. 558); what is left is a cycle."""
        waits = [{origin[name] for name in self._reads(node) if name in origin} for node in self.nodes]
        readers: list[list[int]] = [[] for _ in self.nodes]
        for index, needed in enumerate(waits):
            for other in needed:
                readers[other].append(index)
        left = [len(needed) for needed in waits]
        ready = [index for index, count in enumerate(left) if not count]
        while ready:
            for index in readers[ready.pop()]:
                left[index] -= 1
                if not left[index]:
                    ready.append(index)
        cycle = [_named(self.nodes[index]) for index, count in enumerate(left) if count]
        if cycle:
            names = ", ".join(cycle[:3]) + (" …" if len(cycle) > 3 else "")
            raise ArtifactError(f"{self.path}: the graph has a cycle; in it or after it: {names}.", _AGAIN)

    def _reads(self, node: onnx.NodeProto) -> Iterable[str]:
        """Return the tensors that a node reads, also those of this body that its subgraphs read."""
        free = (name for graph in _subgraphs(node) for name in _scope(graph, self.path).free())
        return {*node.input, *free}

    def free(self) -> set[str]:
        """Return the tensors that the nodes read and this body does not contain."""
        own = {*self.given, *(name for node in self.nodes for name in node.output)}
        return {*(name for node in self.nodes for name in self._reads(node)), *self.results} - own


def _named(node: onnx.NodeProto) -> str:
    return f"the node {node.name!r} ({node.op_type})" if node.name else f"a node {node.op_type}"
