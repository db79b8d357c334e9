"""What an ONNX file is compared for: a part of its graph, under other names, or for another number of samples.

An edited file is checked against its original. Where the edit changes the interface, the original is seen in this way,
and nothing else about it changes. The options of the model's request record it, so that the check can be repeated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch

from deploy.core.errors import ModelError, UsageError
from deploy.core.model import NamedOutputs
from deploy.core.tensors import TensorSpec
from deploy.onnx_graph.graph import OnnxModule
from deploy.support import onnx_file

BATCH = "batch"


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How an ONNX file is seen.

    Attributes:
        cut_inputs: tensors at which the graph begins; empty: its inputs.
        cut_outputs: tensors at which it ends; empty: its outputs.
        rename: names of inputs and outputs by those in the file.
        block: number of samples that the file is fixed to and runs at a time; 0 calls it as it is.
        fp16_io: inputs and outputs that are float32 in the file are float16.
    """

    cut_inputs: tuple[str, ...] = ()
    cut_outputs: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    block: int = 0
    fp16_io: bool = False

    def options(self) -> dict[str, str]:
        """Return the view as options of a model."""
        texts = {
            "cut_inputs": ",".join(self.cut_inputs),
            "cut_outputs": ",".join(self.cut_outputs),
            "rename": ",".join(f"{old}={new}" for old, new in self.rename.items()),
            "block": str(self.block or ""),
            "fp16_io": "true" if self.fp16_io else "",
        }
        return {name: text for name, text in texts.items() if text}

    @classmethod
    def from_options(cls, options: Mapping[str, str], path: Path) -> View:
        """Parse the options of a model.

        Raises:
            UsageError: an option is unknown or has another form.
        """
        known = cls.__dataclass_fields__
        for name in options:
            if name not in known:
                raise UsageError(f"-o {name}: {path.name} has the options {', '.join(known)}.")
        block, half = options.get("block", "0"), options.get("fp16_io", "false")
        pairs = [item.partition("=") for item in _items(options, "rename")]
        if not block.isdigit() or half not in ("true", "false") or not all(new for _, _, new in pairs):
            raise UsageError(f"{path.name}: block is a number, fp16_io true or false, and rename OLD=NEW,OLD=NEW.")
        return cls(
            cut_inputs=_items(options, "cut_inputs"),
            cut_outputs=_items(options, "cut_outputs"),
            rename={old: new for old, _, new in pairs},
            block=int(block),
            fp16_io=half == "true",
        )

    def specs(self, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the inputs as they are seen, from those of the graph.

        Raises:
            ModelError: the file is not fixed to blocks of this number of samples.
        """
        if self.block and any(spec.shape[:1] != (self.block,) for spec in inputs):
            raise ModelError(f"not every input has the first dimension {self.block}.")
        return tuple(
            dataclasses.replace(
                spec,
                name=self.rename.get(spec.name, spec.name),
                dtype="float16" if self.fp16_io and spec.dtype == "float32" else spec.dtype,
                shape=(BATCH, *spec.shape[1:]) if self.block else spec.shape,
            )
            for spec in inputs
        )


def _items(options: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(filter(None, options.get(name, "").split(",")))


def cut(model: onnx.ModelProto, view: View) -> onnx.ModelProto:
    """Return the part of a graph that a view shows; the types of tensors inside are inferred.

    Without ``cut_inputs``, inputs that the outputs do not need are dropped.

    Raises:
        ModelError: a tensor does not exist or its type is not known, or the part needs other inputs.
    """
    if not (view.cut_inputs or view.cut_outputs):
        return model
    part = onnx.ModelProto()
    part.CopyFrom(onnx.shape_inference.infer_shapes(model, data_prop=True))
    graph = part.graph
    known = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
    for name in (*view.cut_inputs, *view.cut_outputs):
        if name not in known or not known[name].type.tensor_type.HasField("shape"):
            raise ModelError(f"no tensor {name!r} of known type and shape in the graph.")
    outputs = view.cut_outputs or tuple(value.name for value in graph.output)
    needed, nodes = set(outputs), []
    for node in reversed(graph.node):
        if needed.intersection(node.output) - set(view.cut_inputs):
            nodes.append(node)
            needed.update(onnx_file.names_read(node))
    stored = {tensor.name for tensor in graph.initializer}
    entries = [value.name for value in graph.input if value.name in needed and value.name not in stored]
    lacking = [name for name in entries if name not in view.cut_inputs]
    if view.cut_inputs and lacking:
        raise ModelError(f"the outputs also need the input {lacking[0]!r}.", "name it in --cut-inputs, too")
    unused = [name for name in view.cut_inputs if name not in needed]
    if unused:
        raise ModelError(f"no output needs the tensor {unused[0]!r}.")
    inputs = view.cut_inputs or entries
    for items, kept in (
        (graph.node, list(reversed(nodes))),
        (graph.input, [known[name] for name in inputs]),
        (graph.output, [known[name] for name in outputs]),
        (graph.initializer, [item for item in graph.initializer if item.name in needed - set(inputs)]),
    ):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del items[:]
        items.extend(copies)
    return part


class ViewedModule(OnnxModule):
    """A graph that is called as its view says."""

    def __init__(self, model: onnx.ModelProto, folder: Path, view: View) -> None:
        super().__init__(model, folder)
        self.view = view
        single = {item.name for item in model.graph.input if item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
        self.single = [name in single for name in self.inputs]

    def forward(self, *inputs: torch.Tensor) -> NamedOutputs:
        """Run the graph, block by block if it is fixed to a number of samples."""
        if self.view.fp16_io:
            inputs = tuple(
                value.float() if value.dtype is torch.float16 and single else value
                for value, single in zip(inputs, self.single, strict=True)
            )
        outputs: dict[str, Any] = self._in_blocks(inputs) if self.view.block else super().forward(*inputs)
        if self.view.fp16_io:
            outputs = {name: _halved(value) for name, value in outputs.items()}
        return NamedOutputs((self.view.rename.get(name, name), value) for name, value in outputs.items())

    def _in_blocks(self, inputs: Sequence[torch.Tensor]) -> dict[str, Any]:
        size, total = self.view.block, len(inputs[0])
        missing = math.ceil(total / size) * size - total
        filled = [torch.cat([value, *[value[-1:]] * missing]) if missing else value for value in inputs]
        results = [
            super(ViewedModule, self).forward(*(value[start : start + size] for value in filled))
            for start in range(0, total, size)
        ]
        for name, value in results[0].items():
            if not isinstance(value, torch.Tensor) or value.shape[:1] != (size,):
                raise ModelError(f"the output {name!r} has no dimension of {size} samples in front.")
        if len(results) == 1 and not missing:
            return results[0]
        return {name: torch.cat([result[name] for result in results])[:total] for name in results[0]}


def _halved(value: Any) -> Any:
    """Return float16 for float32, also in a run that computes every float16 operation in float32."""
    if not isinstance(value, torch.Tensor) or value.dtype is not torch.float32:
        return value
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        return value.half()
