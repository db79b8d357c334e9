"""A float graph and its quantized version, run side by side, layer by layer.

Each layer is visited with the inputs it has in the quantized graph after all earlier layers were adjusted. A step runs
only the nodes between two layers and keeps the tensors that later nodes read, so that one walk costs one run of both
graphs, and its memory is that of the tensors in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.adjustment import Adjustment
from calibration.graph import element_count, initializers, tensor_types, weighted_layers
from deploy.core.errors import BackendError
from deploy.core.runner import Feeds
from deploy.support.onnx_file import names_read
from deploy.support.runtime_errors import first_line

Array = NDArray[Any]

WALK_BYTES = 512 << 20
"""Memory for the tensors in flight, which decides the number of samples of a walk."""

MAX_SAMPLES = 64
_TENSORS = 4
"""Tensors of the largest size in flight: input and output of a layer, in both graphs."""


def walk_samples(model: onnx.ModelProto) -> int:
    """Return the number of samples for a walk over a prepared graph."""
    largest = max((4 * element_count(kind) for kind in tensor_types(model).values()), default=1)
    return int(np.clip(WALK_BYTES // (_TENSORS * largest), 8, MAX_SAMPLES))


@dataclass(kw_only=True, slots=True)
class Visit:
    """A layer of the walk.

    Attributes:
        node: the node in the float graph; ``quantized`` is the one in the quantized graph.
        weight, bias: stored float parameters; no bias is None.
        integers, scale, axis: the stored int8 weight, the scale of each channel and the axis of the channels.
        inputs: first input of the quantized layer, for each batch.
        expected: outputs of the float layer, for each batch.
        actual: outputs of the quantized layer, for each batch; the visitor replaces them if it changes the layer.
        adjustment: set by the visitor.
    """

    node: onnx.NodeProto
    quantized: onnx.NodeProto
    weight: Array
    bias: Array | None
    integers: Array
    scale: Array
    axis: int
    inputs: list[Array]
    expected: list[Array]
    actual: list[Array]
    adjustment: Adjustment | None = None

    @property
    def channel_axis(self) -> int:
        """Axis of the output channels in the outputs."""
        return 1 if self.node.op_type in ("Conv", "ConvTranspose") else -1

    def dequantized(self) -> Array:
        """Return the weight as the quantized layer uses it."""
        return (self.integers * along(self.scale, self.axis, self.integers.ndim)).astype(np.float32)

    def error(self) -> tuple[Array, Array]:
        """Return the mean error of each output channel and its standard error, from the means of the samples."""
        axis = self.channel_axis
        means = []
        for expected, actual in zip(self.expected, self.actual, strict=True):
            difference = np.moveaxis(expected - actual, axis, -1)
            means.append(difference.reshape(len(difference), -1, difference.shape[-1]).mean(axis=1, dtype=np.float64))
        samples = np.concatenate(means)
        return samples.mean(axis=0), samples.std(axis=0) / max(len(samples), 1) ** 0.5


def along(values: Array, axis: int, rank: int) -> Array:
    """Return a vector reshaped to broadcast along an axis of an array."""
    return values.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


def walk(model: onnx.ModelProto, quantized: onnx.ModelProto, batches: Iterable[Feeds]) -> Iterator[Visit]:
    """Visit every quantized layer with stored weights, in execution order.

    Layers that share a weight are not visited. Both graphs contain their weights.
    """
    feeds = list(batches)
    original, changed = _Stepper(model, feeds, fusion=True), _Stepper(quantized, feeds, fusion=False)
    stored, integers = initializers(model), initializers(quantized)
    producers = {name: node for node in quantized.graph.node for name in node.output}
    layers = {node.name: node for node in model.graph.node if node.name in set(weighted_layers(model))}
    uses = Counter(name for node in model.graph.node for name in names_read(node))
    for node in quantized.graph.node:
        layer = layers.get(node.name)
        source = producers.get(node.input[1]) if layer is not None else None
        if layer is None or source is None or source.op_type != "DequantizeLinear" or uses[layer.input[1]] > 1:
            continue
        if source.input[0] not in integers or integers[source.input[0]].data_type != onnx.TensorProto.INT8:
            continue
        bias = layer.input[2] if len(layer.input) > 2 and layer.input[2] else ""
        if bias and (bias not in stored or uses[bias] > 1):
            continue
        weight = onnx.numpy_helper.to_array(integers[source.input[0]])
        scale = onnx.numpy_helper.to_array(integers[source.input[1]])
        expected = original.step(layer, [layer.output[0]])
        actual = changed.step(node, [node.input[0], node.output[0]])
        visit = Visit(
            node=layer,
            quantized=node,
            weight=onnx.numpy_helper.to_array(stored[layer.input[1]]),
            bias=onnx.numpy_helper.to_array(stored[bias]) if bias else None,
            integers=weight,
            scale=scale.reshape(-1),
            axis=next((item.i for item in source.attribute if item.name == "axis"), 1) % weight.ndim,
            inputs=[item[0] for item in actual],
            expected=[item[0] for item in expected],
            actual=[item[1] for item in actual],
        )
        yield visit
        if visit.adjustment is not None:
            changed.replace(node.output[0], visit.actual)


class _Stepper:
    """Runs a graph up to one layer after another; keeps the tensors that nodes still to run read."""

    def __init__(self, model: onnx.ModelProto, batches: Sequence[Feeds], *, fusion: bool) -> None:
        self._model, self._fusion = model, fusion
        self._stored = initializers(model)
        self._live: list[dict[str, Array]] = [dict(batch) for batch in batches]
        self._maker = {name: node for node in model.graph.node for name in node.output if name}
        self._constant = set(self._stored).difference(*self._live[:1])
        self._left: Counter[str] = Counter()
        """Number of nodes still to run that read a tensor."""
        for node in model.graph.node:
            reads = set(names_read(node))
            if reads <= self._constant:
                self._constant.update(node.output)
            else:
                self._left.update(reads)

    def step(self, layer: onnx.NodeProto, wanted: Sequence[str]) -> list[list[Array]]:
        """Run a layer and the nodes that it depends on; return the wanted tensors of each batch."""
        nodes, inputs, weights = self._needed(layer)
        fresh = [node for node in nodes if not self._constant.issuperset(node.output)]
        for node in fresh:
            self._left.subtract(set(names_read(node)))
        made = [name for node in fresh for name in node.output if name]
        outputs = [name for name in made if self._left[name] or name in wanted]
        session = self._session(nodes, inputs, weights, outputs)
        results = []
        for live in self._live:
            values = live | dict(zip(outputs, session.run(outputs, {name: live[name] for name in inputs}), strict=True))
            results.append([values[name] for name in wanted])
            live.clear()
            live.update((name, value) for name, value in values.items() if self._left[name])
        return results

    def _needed(self, layer: onnx.NodeProto) -> tuple[list[onnx.NodeProto], list[str], list[onnx.TensorProto]]:
        """Return the nodes to run for a layer, in order, the computed tensors and the stored ones that they read."""
        nodes: list[onnx.NodeProto] = []
        inputs: dict[str, None] = {}
        weights: dict[str, onnx.TensorProto] = {}
        seen: set[str] = set()
        pending = [(layer, False)]
        while pending:
            node, ready = pending.pop()
            if ready:
                nodes.append(node)
            elif node.output[0] not in seen:
                seen.add(node.output[0])
                pending.append((node, True))
                for name in names_read(node):
                    if name in self._live[0]:
                        inputs[name] = None
                    elif name in self._stored:
                        weights[name] = self._stored[name]
                    elif name in self._maker:
                        pending.append((self._maker[name], False))
        return nodes, list(inputs), list(weights.values())

    def replace(self, name: str, values: Sequence[Array]) -> None:
        """Replace a tensor that was computed."""
        for live, value in zip(self._live, values, strict=True):
            if name in live:
                live[name] = value

    def _session(
        self, nodes: list[onnx.NodeProto], inputs: list[str], weights: list[onnx.TensorProto], outputs: list[str]
    ) -> ort.InferenceSession:
        kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(self._live[0][name].dtype) for name in inputs}
        graph = onnx.helper.make_graph(
            nodes,
            "step",
            [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            weights,
        )
        return open_session(self._model, graph, fusion=self._fusion)


def open_session(model: onnx.ModelProto, graph: onnx.GraphProto, *, fusion: bool) -> ort.InferenceSession:
    """Open a part of a model on the CPU."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fusion:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    part = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
    try:
        return ort.InferenceSession(part.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise BackendError(f"ONNX Runtime cannot open a part of the graph: {first_line(exc)}") from exc
