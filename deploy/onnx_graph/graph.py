"""Run the nodes of an ONNX graph one by one in PyTorch; its weights are parameters and buffers of the module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from deploy.core.errors import ModelError
from deploy.core.model import NamedOutputs
from deploy.onnx_graph.constants import tensor_of
from deploy.onnx_graph.expansion import expanded, without_function
from deploy.onnx_graph.node import DOMAINS, Compute, OnnxNode, Values, function_of

_STATISTICS = ("weight", "bias", "running_mean", "running_var")


class Step(torch.nn.Module):
    """One node; a module, so that a run in PyTorch names the node that an operator belongs to."""

    def __init__(self, node: OnnxNode, compute: Compute, *, scoped: bool) -> None:
        super().__init__()
        self.node = node
        self.compute = compute
        self.scoped = scoped
        for name, value in node.attributes.items():
            if isinstance(value, Graph):
                self.add_module(name, value)

    def forward(self, scope: Values, *inputs: Any) -> tuple[Any, ...]:
        """Compute the outputs of the node."""
        arguments = (self.node, scope, *inputs) if self.scoped else (self.node, *inputs)
        result = self.compute(*arguments)
        return result if isinstance(result, tuple) else (result,)


class Graph(torch.nn.Module):
    """A graph, or a subgraph in an attribute of a node.

    Attributes:
        inputs, outputs: names.
        output_types: as the file declares them.
    """

    def __init__(self, graph: onnx.GraphProto, opsets: Mapping[str, int], folder: Path) -> None:
        super().__init__()
        self._taken: set[str] = set()
        # weights by name: the step whose parameter each is, None for this graph, which must not refer to itself
        self._stored: dict[str, tuple[Step | None, str]] = {}
        for tensor in graph.initializer:
            self._store(tensor.name, tensor_of(tensor, folder))
        for sparse in graph.sparse_initializer:
            self._store(sparse.values.name, tensor_of(sparse, folder))
        self.inputs = tuple(value.name for value in graph.input if value.name not in self._stored)
        self.outputs = tuple(value.name for value in graph.output)
        self.output_types = tuple(value.type for value in graph.output)
        self._steps: list[tuple[Step, OnnxNode, list[str]]] = []
        for proto in graph.node:
            if proto.op_type == "Constant" and proto.domain in DOMAINS:
                self._store(proto.output[0], tensor_of(proto, folder))
                continue
            self._add(proto, opsets, folder)
        self._free_when_done()

    def _store(self, name: str, value: torch.Tensor) -> None:
        """Keep a weight under its own name, without the characters that names of modules cannot have."""
        key = self._free_name(name)
        self._stored[name] = (None, key)
        _register(self, key, value)

    def _free_name(self, name: str) -> str:
        base = name.replace(".", "/") or "unnamed"
        key, turn = base, 1
        while key in self._taken or hasattr(self, key):
            key, turn = f"{base}_{turn}", turn + 1
        self._taken.add(key)
        return key

    def _add(self, proto: onnx.NodeProto, opsets: Mapping[str, int], folder: Path) -> None:
        domain = "" if proto.domain in DOMAINS else proto.domain
        compute, scoped = function_of(domain, proto.op_type)
        node = OnnxNode(
            name=proto.name,
            operator=proto.op_type,
            domain=domain,
            version=opsets.get(domain, 1),
            attributes={item.name: _attribute(item, opsets, folder) for item in proto.attribute},
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
        )
        step = Step(node, compute, scoped=scoped)
        if node.operator == "BatchNormalization":
            self._name_statistics(step)
        self.add_module(self._free_name(proto.name or f"{proto.op_type}_{len(self._steps)}"), step)
        self._steps.append((step, node, []))

    def _name_statistics(self, step: Step) -> None:
        """Move the weights of a batch normalization to its own module, under the names that PyTorch gives them."""
        step.eps = step.node.get("epsilon", 1e-5)
        for name, attribute in zip(step.node.inputs[1:], _STATISTICS, strict=False):
            if name in self._stored:
                owner, key = self._stored[name]
                value = getattr(owner or self, key)
                if owner is None:
                    delattr(self, key)
                _register(step, attribute, value)
                self._stored[name] = (step, attribute)

    def _free_when_done(self) -> None:
        """Note for each step which values no later one needs."""
        needed = set(self.outputs)
        for step, node, done in reversed(self._steps):
            used = {*node.inputs, *_captured(step)} - {""}
            done += sorted((used | set(node.outputs)) - needed)
            needed |= used

    def stored(self) -> dict[str, torch.Tensor]:
        """Return the weights by their names in the graph."""
        return {name: getattr(owner or self, key) for name, (owner, key) in self._stored.items()}

    def free_names(self) -> set[str]:
        """Return the names of the values around this graph that its nodes use."""
        own = {*self._stored, *self.inputs, *(name for _, node, _ in self._steps for name in node.outputs)}
        used = {*self.outputs, *(name for step, node, _ in self._steps for name in (*node.inputs, *_captured(step)))}
        return used - own - {""}

    def compute(self, step: Step, scope: Values, *inputs: Any) -> tuple[Any, ...]:
        """Return the results of one node."""
        results: tuple[Any, ...] = step(scope, *inputs)
        return results

    def run(self, inputs: Mapping[str, Any], scope: Values | None = None) -> list[Any]:
        """Return the outputs; ``scope`` are the values around a subgraph."""
        values: dict[str, Any] = {**(scope or {}), **self.stored(), **inputs}
        for step, node, done in self._steps:
            results = self.compute(step, values, *(values[name] if name else None for name in node.inputs))
            for name, value in zip(node.outputs, results, strict=False):
                if name:
                    values[name] = value
            for name in done:
                values.pop(name, None)
        return [values[name] for name in self.outputs]


class OnnxModule(Graph):
    """A whole graph: inputs in the order of the file, outputs by name.

    Operators without a function here are replaced by their definition in terms of others, where there is one.

    Raises:
        ModelError: an operator or a type of tensor cannot be evaluated.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        model = expanded(model)
        _refuse_unknown(model)
        opsets = {"" if item.domain in DOMAINS else item.domain: item.version for item in model.opset_import}
        super().__init__(model.graph, opsets, folder)

    def forward(self, *inputs: torch.Tensor) -> NamedOutputs:
        """Run the graph."""
        values = dict(zip(self.inputs, inputs, strict=True))
        return NamedOutputs(zip(self.outputs, self.run(values), strict=True))


def _register(module: torch.nn.Module, key: str, value: torch.Tensor) -> None:
    if value.is_floating_point():
        module.register_parameter(key, torch.nn.Parameter(value, requires_grad=False))
    else:
        module.register_buffer(key, value)


def _captured(step: Step) -> Iterable[str]:
    return {name for part in step.children() if isinstance(part, Graph) for name in part.free_names()}


def _refuse_unknown(model: onnx.ModelProto) -> None:
    """Refuse a graph with operators that have no function here.

    Raises:
        ModelError: see above; it names them.
    """
    unknown = without_function(model)
    if unknown:
        (first, where), *others = unknown.items()
        more = f", and {', '.join(name for name, _ in others[:5])}" if others else ""
        raise ModelError(f"{first} (node {where!r}){more} cannot be evaluated in float64: not known here, or random.")


def _attribute(item: onnx.AttributeProto, opsets: Mapping[str, int], folder: Path) -> Any:
    if item.type == onnx.AttributeProto.GRAPH:
        return Graph(item.g, opsets, folder)
    if item.type in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.SPARSE_TENSOR):
        return tensor_of(item.t if item.type == onnx.AttributeProto.TENSOR else item.sparse_tensor, folder)
    value = onnx.helper.get_attribute_value(item)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(part.decode() if isinstance(part, bytes) else part for part in value)
    return value
