"""Open the batch of an ONNX graph that is fixed to a number of samples.

The graph is run in PyTorch at its own number of samples and at another one. On the second run, each node that holds the
number in a constant is found by the shapes of its inputs, and gets a constant, or nodes, that do not hold it:

- the shape of a Reshape gets -1 at the axis that the samples are counted by;
- the shape of an Expand gets 1 there, and the sizes of a Resize the number of samples of the graph's input;
- a constant that is joined to samples (Concat), or that is a state of a recurrent layer, is repeated for each sample.

What cannot be opened in this way makes the second run stop, or the parity check fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch

from deploy.core.errors import DeployError, ExportError, UsageError
from deploy.models.onnx_model import example_value
from deploy.onnx_graph.graph import OnnxModule, Step
from deploy.onnx_graph.view import BATCH
from deploy.parity.locate import Location
from deploy.support import onnx_file
from deploy.support.runtime_errors import first_line

_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(kw_only=True, slots=True)
class Opened:
    """What was changed.

    Attributes:
        nodes: names of the nodes whose constants were changed.
        stuck: the node that does not run with another number of samples; None if every node does.
        reason: why it does not run.
    """

    nodes: list[str] = field(default_factory=list)
    stuck: Location | None = None
    reason: str = ""


def fixed_batch(model: ir.Model) -> int | None:
    """Return the first dimension of all inputs; None if it is open.

    Raises:
        UsageError: inputs have different ones, or none.
    """
    first: dict[int | None, str] = {}
    for value in _inputs(model):
        if not value.shape:
            raise UsageError(f"the input {value.name!r} has no first dimension.")
        size = value.shape[0]
        first[size if isinstance(size, int) else None] = str(value.name)
    if len(first) != 1:
        raise UsageError(
            "the inputs do not have one number of samples in front: "
            + ", ".join(f"{name!r} has {size or 'an open one'}" for size, name in first.items())
            + "."
        )
    return next(iter(first))


def set_batch(model: ir.Model, size: int) -> None:
    """Fix the first dimension of all inputs, which is open, and where inputs and outputs have it elsewhere."""
    first = {
        value.shape[0].value for value in _inputs(model) if value.shape and isinstance(value.shape[0], ir.SymbolicDim)
    }
    _forget_shapes(model)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape:
            tied = [isinstance(dim, ir.SymbolicDim) and dim.value in first - {None} for dim in value.shape]
            value.shape = ir.Shape([size if same else dim for dim, same in zip(value.shape, tied, strict=True)])
    for value in _inputs(model):
        assert value.shape is not None
        value.shape = ir.Shape([size, *value.shape[1:]])


def open_batch(model: ir.Model, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Opened:
    """Open the first dimension of all inputs.

    Args:
        model: the graph, which is changed.
        folder: where its external data is.
        shapes: sizes at which inputs run; open dimensions of other inputs get 64.

    Raises:
        ExportError: an output does not have the number of samples as its first dimension.
    """
    block = fixed_batch(model)
    assert block is not None
    for value in model.graph.outputs:
        first = None if value.shape is None else (*value.shape, 0)[0]  # open where the exporter did not know it
        if isinstance(first, int) and first != block:
            raise ExportError(
                f"the output {value.name!r} has no dimension of {block} samples in front, so it cannot be compared.",
                "name the other outputs with --cut-outputs",
            )
    opening = _Opening(model, folder, block, shapes)
    result = opening.run()
    for value in _inputs(model):
        assert value.shape is not None
        value.shape = ir.Shape([BATCH, *value.shape[1:]])
    _forget_shapes(model)
    for value in model.graph.outputs:
        if value.shape and str(value.name) in opening.outputs:
            value.shape = ir.Shape(opening.outputs[str(value.name)])
        elif value.shape:
            value.shape = ir.Shape([None, *value.shape[1:]])
    return result


def _inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def _forget_shapes(model: ir.Model) -> None:
    ends = {id(value) for value in model.graph.outputs}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if id(value) not in ends:
                value.shape = None


class _CannotOpenError(Exception):
    """A node holds the number of samples in a way that is not known here."""


class _Opening:
    """The two runs, and the changes that the second one asks for."""

    def __init__(self, model: ir.Model, folder: Path, block: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.model, self.block, self.other = model, block, 2 * block + 1
        self.proto = ir.to_proto(model)
        self.module = OnnxModule(self.proto, folder)
        self.specs = [onnx_file.tensor_spec(value, folder) for value in self.proto.graph.input]
        self.specs = [spec for spec in self.specs if spec.name in self.module.inputs]
        self.shapes = shapes
        self.open = any(isinstance(dim, str) for spec in self.specs for dim in spec.shape)
        self.varying = _varying(self.proto.graph, set(self.module.inputs))
        self.producer = {str(value.name): node for node in model.graph for value in node.outputs}
        self.before: dict[str, tuple[int, ...]] = {}
        self.inside: dict[str, int] = {}  # elements of the axis of the samples that are of one sample and adjacent
        self.outputs: dict[str, list[int | str | None]] = {}
        self.result = Opened()
        self.node: Any = None
        self.batch: ir.Value | None = None
        self.made = 0

    def run(self) -> Opened:
        first = self._call(self.block, after=self._note)
        try:
            second = self._call(self.other, before=self._fix, after=self._follow)
        except (DeployError, _CannotOpenError, RuntimeError, ValueError, IndexError, TypeError) as exc:
            self.result.stuck = Location(
                tensor=self.node.outputs[0],
                node=self.node.name,
                operator=self.node.operator,
                after=next((name for name in self.node.inputs if name), ""),
                agreed=0,
                compared=0,
            )
            self.result.reason = first_line(exc)
            return self.result
        for name, value in second.items():
            dims = zip(first[name].shape, value.shape, strict=True)
            self.outputs[name] = [old if old == new else BATCH if new == self.other else None for old, new in dims]
        return self.result

    def _call(self, samples: int, *, before: Any = None, after: Any = None) -> dict[str, Any]:
        steps = [part for part in self.module.modules() if isinstance(part, Step)]
        hooks = [step.register_forward_pre_hook(before) for step in steps if before]
        hooks += [step.register_forward_hook(after) for step in steps if after]
        sizes = dict.fromkeys((str(dim) for spec in self.specs for dim in spec.shape if isinstance(dim, str)), 64)
        shapes = [self.shapes.get(spec.name, spec.concrete(sizes)) for spec in self.specs]
        values = [example_value(spec, (samples, *shape[1:])) for spec, shape in zip(self.specs, shapes, strict=True)]
        try:
            with torch.inference_mode():
                return self.module(*values)  # type: ignore[no-any-return]
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, step: Step, args: Any, results: Sequence[Any]) -> None:
        self._note_inputs(step, args)
        for name, value in zip(step.node.outputs, results, strict=False):
            if isinstance(value, torch.Tensor):
                self.before[name] = tuple(value.shape)

    def _note_inputs(self, step: Step, args: Any) -> None:
        for name, value in zip(step.node.inputs, args[1:], strict=False):
            if isinstance(value, torch.Tensor):
                self.before[name] = tuple(value.shape)

    def _follow(self, step: Step, args: Any, results: Sequence[Any]) -> None:
        """Note where the samples are within the axis that counts them, as in an input of the node of the same size."""
        for name, value in zip(step.node.outputs, results, strict=False):
            if name in self.inside or not isinstance(value, torch.Tensor) or len(axes := self._axes(name, value)) != 1:
                continue
            size = self.before[name][axes[0]]
            self.inside[name] = size // self.block
            for source, given in zip(step.node.inputs, args[1:], strict=False):
                known = isinstance(given, torch.Tensor) and source in self.inside and self._axes(source, given)
                if known and self.before[source][known[0]] == size:
                    self.inside[name] = self.inside[source]
                    break

    def _fix(self, step: Step, args: Any) -> Any:
        """Change the inputs of a node that hold the number of samples, here and in the graph."""
        self.node = step.node
        fixes: dict[str, Callable[[list[Any]], dict[int, Any]]] = {
            "Reshape": self._reshape,
            "Expand": self._expand,
            "Resize": self._resize,
            "Concat": self._concat,
            **dict.fromkeys(_RECURRENT, self._recurrent),
        }
        fix = fixes.get(self.node.operator)
        if fix is None:
            return None
        inputs = list(args[1:])
        changed = fix(inputs)
        if changed:
            self.result.nodes.append(self.node.name or self.node.outputs[0])
        return (args[0], *(changed.get(index, value) for index, value in enumerate(inputs)))

    def _axes(self, name: str, value: torch.Tensor) -> list[int]:
        """Return the axes of a tensor that have another size than with the own number of samples."""
        old = self.before.get(name, tuple(value.shape))
        if len(old) != value.ndim:
            return []
        return [axis for axis, (a, b) in enumerate(zip(old, value.shape, strict=True)) if a != b]

    def _reshape(self, inputs: list[Any]) -> dict[int, Any]:
        data, shape = inputs
        source, result = self.node.inputs[0], self.node.outputs[0]
        axes = self._axes(source, data)
        if not axes:
            return {}
        old = self.before[source]
        if len(axes) != 1 or old[axes[0]] % self.block:
            raise _CannotOpenError(f"{len(axes)} axes of its data depend on the number of samples")
        distance = math.prod(old[axes[0] + 1 :]) * self.inside.get(source, old[axes[0]] // self.block)
        place = _place(self.before[result], distance, self.block)
        self.inside[result] = distance // math.prod(self.before[result][place + 1 :])
        target = list(self.before[self.node.outputs[0]])
        wanted = [*target]
        wanted[place] = -1
        given = shape.tolist()
        if self.open:
            if -1 in given and given[place] != -1:
                wanted = [*given]
                wanted[place] = 0
                if place != axes[0]:
                    raise _CannotOpenError(f"its shape {given} has no place for the number of samples")
            elif given[place] != -1:
                wanted = [*given]
                wanted[place] = -1
        rest = math.prod(size for axis, size in enumerate(target) if axis != place)
        size = data.numel() // rest if rest else 0
        resolved = [data.shape[axis] if item == 0 and axis < data.ndim else item for axis, item in enumerate(given)]
        known = math.prod(item for item in resolved if item != -1)
        resolved = [data.numel() // known if item == -1 and known else item for item in resolved]
        if resolved == [size if axis == place else item for axis, item in enumerate(target)]:
            return {}
        return {1: self._constant(1, torch.tensor(wanted))}

    def _expand(self, inputs: list[Any]) -> dict[int, Any]:
        data, shape = inputs
        wanted, offset = shape.tolist(), len(shape) - data.ndim
        if self.node.inputs[1] in self.varying:
            sizes = list(enumerate(data.shape))
            axes = [axis for axis, size in sizes if 1 < size == self.block and wanted[axis + offset] == self.other]
            return {0: self._grow(0, data, axes[0])} if axes else {}
        for axis in self._axes(self.node.inputs[0], data):
            wanted[axis + offset] = 1
        return {} if wanted == shape.tolist() else {1: self._constant(1, torch.tensor(wanted))}

    def _resize(self, inputs: list[Any]) -> dict[int, Any]:
        if len(inputs) < 4 or inputs[3] is None or self.node.inputs[3] in self.varying:
            return {}
        sizes = inputs[3].tolist()
        if self._axes(self.node.inputs[0], inputs[0]) != [0] or len(sizes) != inputs[0].ndim or sizes[0] != self.block:
            return {}
        vector = self._vector([None, *sizes[1:]])
        self._connect(3, vector)
        return {3: torch.tensor([self.other, *sizes[1:]])}

    def _concat(self, inputs: list[Any]) -> dict[int, Any]:
        axes = {axis for name, value in zip(self.node.inputs, inputs, strict=True) for axis in self._axes(name, value)}
        axes.discard(self.node.get("axis", 0) % inputs[0].ndim)
        changed = {}
        for axis in axes:
            for index, value in enumerate(inputs):
                if self.node.inputs[index] not in self.varying and value.shape[axis] == self.block:
                    changed[index] = self._grow(index, value, axis)
        return changed

    def _recurrent(self, inputs: list[Any]) -> dict[int, Any]:
        axis = 0 if self.node.get("layout", 0) else 1
        if not self._axes(self.node.inputs[0], inputs[0]):
            return {}
        changed = {}
        for index, place in ((4, 0), (5, axis), (6, axis)):
            value = inputs[index] if index < len(inputs) else None
            if value is not None and self.node.inputs[index] not in self.varying:
                changed[index] = self._grow(index, value, place)
        return changed

    def _grow(self, index: int, value: torch.Tensor, axis: int) -> torch.Tensor:
        """Repeat a constant that is the same for each sample."""
        row = value.narrow(axis, 0, 1)
        if not torch.equal(row.expand_as(value), value):
            raise _CannotOpenError(f"its constant {self.node.inputs[index]!r} differs from sample to sample")
        source = self._producer().inputs[index]
        assert source is not None
        if self.block > 1:
            ends = [self._initializer(torch.tensor([number])) for number in (0, 1, axis)]
            source = self._insert("Slice", [source, *ends])
        sizes = [None if place == axis else size for place, size in enumerate(row.shape)]
        self._connect(index, self._insert("Expand", [source, self._vector(sizes)]))
        return row.expand(*(self.other if place == axis else size for place, size in enumerate(row.shape)))

    def _vector(self, sizes: Sequence[int | None]) -> ir.Value:
        """Return the graph's vector of some sizes, with the number of samples in place of None."""
        parts: list[ir.Value] = []
        place = list(sizes).index(None)
        for part in (sizes[:place], None, sizes[place + 1 :]):
            if part is None:
                parts.append(self._samples())
            elif part:
                parts.append(self._initializer(torch.tensor(part)))
        return parts[0] if len(parts) == 1 else self._insert("Concat", parts, axis=0)

    def _samples(self) -> ir.Value:
        if self.batch is None:
            first, zero = next(iter(self.model.graph)), self._initializer(torch.tensor([0]))
            shape = self._insert("Shape", [_inputs(self.model)[0]], before=first)
            self.batch = self._insert("Gather", [shape, zero], before=first)
        return self.batch

    def _insert(
        self, operator: str, inputs: Sequence[ir.Value], before: ir.Node | None = None, **attributes: Any
    ) -> ir.Value:
        self.made += 1
        node = ir.node(operator, inputs, attributes, name=f"batch_{operator}_{self.made}")
        node.outputs[0].name = f"batch_{self.made}"
        self.model.graph.insert_before(before or self._producer(), node)
        return node.outputs[0]

    def _initializer(self, value: torch.Tensor) -> ir.Value:
        self.made += 1
        name = f"batch_{self.made}"
        stored = ir.val(name, const_value=ir.tensor(value.to(torch.int64).numpy(), name=name))
        self.model.graph.register_initializer(stored)
        return stored

    def _constant(self, index: int, value: torch.Tensor) -> torch.Tensor:
        self._connect(index, self._initializer(value))
        return value

    def _connect(self, index: int, value: ir.Value) -> None:
        self._producer().replace_input_with(index, value)

    def _producer(self) -> ir.Node:
        name = self.node.outputs[0]
        if name not in self.producer:
            raise _CannotOpenError("it is inside a function, a branch or a loop")
        return self.producer[name]


def _varying(graph: onnx.GraphProto, inputs: set[str]) -> set[str]:
    """Return the tensors that depend on the inputs."""
    found = set(inputs)
    for node in graph.node:
        if found.intersection(onnx_file.names_read(node)):
            found.update(node.output)
    return found


def _place(target: Sequence[int], distance: int, block: int) -> int:
    """Return the axis of a Reshape's result that counts the samples.

    The order of elements stays, so samples have the same distance from each other as in the data. Where several axes of
    the result fit, as with a single sample, an axis of their number is taken, else the last one but the features.
    """
    fitting = []
    for axis in range(len(target)):
        inner = math.prod(target[axis + 1 :])
        if inner and distance % inner == 0 and (inner * target[axis]) % (distance * block) == 0:
            fitting.append(axis)
    if not fitting:
        raise _CannotOpenError(f"no axis of its result {list(target)} counts the samples")
    exact = [axis for axis in fitting if target[axis] == block]
    inner_axes = [axis for axis in fitting if axis < len(target) - 1]
    return exact[0] if exact else inner_axes[-1] if inner_axes else fitting[0]
