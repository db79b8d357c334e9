"""Q/DQ pairs, placed by ONNX Runtime's quantizer with our ranges and the rules of a target."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantType, add_infer_metadata

from calibration.graph import WEIGHTED, consumers, initializers
from calibration.grid import Range
from calibration.target import QdqRules
from deploy.core.errors import ArtifactError


def insert(
    model: onnx.ModelProto, ranges: Mapping[str, Range], rules: QdqRules, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a prepared float graph with Q/DQ pairs, which replace its weights in place; tensors keep their names.

    Raises:
        ArtifactError: parts of the graph do not fit each other.
    """
    add_infer_metadata(model)  # its shapes are inferred: the quantizer would copy the graph and infer them again
    ends = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    with _silent():
        quantizer = QDQQuantizer(
            model,
            True,
            rules.reduce_range,
            QuantType.QInt8,
            QuantType.QInt8 if rules.grid.symmetric else QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, ends),
            _nodes_to_quantize(model, rules, keep_float),
            [],
            list(rules.operators),
            {
                "ActivationSymmetric": rules.grid.symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": rules.bias,
                "DedicatedQDQPair": rules.dedicated_pairs,
                "OpTypesToExcludeOutputQuantization": [] if rules.outputs else list(rules.operators),
                "MatMulConstBOnly": True,
                "ForceQuantizeNoInputCheck": not rules.outputs,  # a max-pool whose input no other node quantizes
            },
        )
        try:
            quantizer.quantize_model()
        except Exception as exc:  # whatever it raises for a graph whose parts do not fit each other
            raise ArtifactError(f"the graph cannot be quantized: {type(exc).__name__}: {exc}.") from exc
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def add_pairs(model: onnx.ModelProto, readers: Mapping[str, Collection[str]], ranges: Mapping[str, Range]) -> None:
    """Insert symmetric int8 Q/DQ pairs between tensors and some of their consumers, in place.

    ``readers`` are, by tensor, the names of the nodes that read the quantized tensor afterwards.
    """
    graph = model.graph
    by_name = {node.name: node for node in graph.node}
    position = {name: index for index, node in enumerate(graph.node) for name in node.output}
    added: list[tuple[int, list[Any]]] = []
    for tensor, names in readers.items():
        stem = f"{tensor}_skip"
        scale = np.array(max(ranges[tensor][1] / 127.0, np.finfo(np.float32).tiny), np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{stem}_scale"))
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.int8), f"{stem}_zero_point"))
        parameters = [f"{stem}_scale", f"{stem}_zero_point"]
        quantize = onnx.helper.make_node("QuantizeLinear", [tensor, *parameters], [f"{stem}_q"], f"{stem}_q")
        dequantize = onnx.helper.make_node("DequantizeLinear", [f"{stem}_q", *parameters], [f"{stem}_dq"], f"{stem}_dq")
        added.append((position.get(tensor, -1) + 1, [quantize, dequantize]))
        for name in names:
            node = by_name[name]
            inputs = [f"{stem}_dq" if item == tensor else item for item in node.input]
            del node.input[:]
            node.input.extend(inputs)
    for index, nodes in sorted(added, key=lambda item: -item[0]):
        for offset, node in enumerate(nodes):
            graph.node.insert(index + offset, node)


def residual_skips(model: onnx.ModelProto, keep_float: Collection[str]) -> dict[str, list[str]]:
    """Return, by skip branch, the names of the residual sums that read it; sums in float are left out.

    A branch computed by an operator with weights for this sum alone is fused with the sum by the runtime and is not the
    skip branch; if both branches are such, the second is taken as the skip branch.
    """
    stored, readers = initializers(model), consumers(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    skips: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type != "Add" or any(name in stored for name in node.input):
            continue
        fused = [
            name
            for name in node.input
            if name in producers
            and producers[name].op_type in WEIGHTED
            and producers[name].name not in keep_float
            and len(readers[name]) == 1
        ]
        if fused:
            skip = next((name for name in node.input if name not in fused), node.input[1])
            skips.setdefault(skip, []).append(node.name)
    return skips


def _nodes_to_quantize(model: onnx.ModelProto, rules: QdqRules, keep_float: Collection[str]) -> list[str]:
    """Return the names of the nodes to quantize; a product of two activations has no weights and stays in float."""
    stored = initializers(model)
    names = [
        node.name
        for node in model.graph.node
        if node.op_type in rules.operators
        and node.name not in keep_float
        and (node.op_type not in WEIGHTED or node.input[1] in stored)
    ]
    return names or ["(none)"]  # the quantizer takes an empty list for all nodes


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the quantizer, which logs advice through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
