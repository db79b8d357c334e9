"""ONNX Runtime one node at a time, to locate the node where a graph goes wrong.

Slow, but needs memory for a few tensors only. A run returns the shape and the sketch (`deploy.support.sketch`) of every
float tensor instead of its values. No graph optimization is applied, so an error found here is in the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from deploy.core.errors import BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.support import onnx_file
from deploy.support.runtime_errors import first_line
from deploy.support.sketch import sketch


class StepwiseRunner(Runner):
    """Runs an ONNX file node by node."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model = onnx_file.load(path)
        self._initializers = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self.inputs = tuple(
            onnx_file.tensor_spec(value, path)
            for value in self._model.graph.input
            if value.name not in self._initializers
        )
        self.outputs: tuple[TensorSpec, ...] = ()

    def run(self, feeds: Feeds) -> Fetches:
        """Run once.

        Returns:
            Two entries for each float tensor ``t``, in execution order: ``t``, its sketch, and ``t:shape``.
        """
        sketches: Fetches = {}
        for name, value in self._values(feeds):
            if value.dtype.kind == "f" and value.size > 1:
                sketches[name] = sketch(value)
                sketches[f"{name}:shape"] = np.array(value.shape, np.int64)
        return sketches

    def _values(self, feeds: Feeds) -> Iterator[tuple[str, Any]]:
        live: dict[str, Any] = dict(feeds)
        uses = Counter(name for node in self._model.graph.node for name in onnx_file.names_read(node))
        for value in self._model.graph.output:
            uses[value.name] += 1
        for node in self._model.graph.node:
            names = [name for name in dict.fromkeys(onnx_file.names_read(node)) if name]
            values = {name: self._value(name, live) for name in names}
            for name, value in self._run_node(node, values).items():
                live[name] = value
                yield name, value
            for name in onnx_file.names_read(node):
                uses[name] -= 1
                if uses[name] <= 0:
                    live.pop(name, None)

    def _value(self, name: str, live: dict[str, Any]) -> Any:
        if name in live:
            return live[name]
        if name in self._initializers:
            return onnx_file.array(self._initializers[name], self._path)
        raise BackendError(f"{self._path}: tensor {name!r} is read before any node computes it.")

    def _run_node(self, node: onnx.NodeProto, values: dict[str, Any]) -> dict[str, Any]:
        inputs = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in values.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "step", inputs, outputs)
        model = onnx.helper.make_model(
            graph, opset_imports=list(self._model.opset_import), functions=list(self._model.functions)
        )
        model.ir_version = self._model.ir_version
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        try:
            session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
            results = session.run(None, values)
        except Exception as exc:
            raise BackendError(f"node {node.name!r} ({node.op_type}) cannot be run: {first_line(exc)}") from exc
        return dict(zip([value.name for value in outputs], results, strict=True))


def open(path: Path) -> StepwiseRunner:
    """Open an ONNX file; see `StepwiseRunner`."""
    return StepwiseRunner(path)
