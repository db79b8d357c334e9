"""Q/DQ written into a graph by ONNX Runtime's quantizer, with our ranges and a target's rules."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantType

from calibration.graph import WEIGHTED, consumers, initializers
from calibration.grid import Grid, Range


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Where a target wants Q/DQ, and of what kind.

    Attributes:
        grid: of the activations: asymmetric is uint8, symmetric int8 with zero-point 0. Weights are always int8,
            symmetric, with a scale for each output channel.
        operators: whose inputs are rounded.
        outputs: whether their outputs are rounded too; without, the runtime decides what follows in eight bits.
        bias: biases as int32; without, they stay float.
        reduce_range: weights in seven bits, for processors whose 16-bit sums of products overflow.
        pairs: a Q/DQ pair of its own for every reader of a tensor.
    """

    grid: Grid
    operators: tuple[str, ...]
    outputs: bool = True
    bias: bool = True
    reduce_range: bool = False
    pairs: bool = False


def insert(
    model: onnx.ModelProto, ranges: Mapping[str, Range], rules: Rules, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of the graph with Q/DQ in it.

    Args:
        model: a float graph, as `calibration.graph.prepare` returns it.
        ranges: of every float activation.
        rules: the target's.
        keep_float: names of nodes that are left as they are.

    Returns:
        The quantized graph; tensors keep their names.
    """
    chosen = _chosen(model, rules, set(keep_float))
    data = {name: _data(*span) for name, span in ranges.items()}
    with _quiet():
        quantizer = QDQQuantizer(
            copy.deepcopy(model),
            True,
            rules.reduce_range,
            QuantType.QInt8,
            QuantType.QInt8 if rules.grid.symmetric else QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, data),
            chosen,
            [],
            list(rules.operators),
            {
                "ActivationSymmetric": rules.grid.symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": rules.bias,
                "DedicatedQDQPair": rules.pairs,
                "OpTypesToExcludeOutputQuantization": [] if rules.outputs else list(rules.operators),
                "MatMulConstBOnly": True,
                "ForceQuantizeNoInputCheck": not rules.outputs,  # a max-pool's input, though nothing rounded it before
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    return made


def _chosen(model: onnx.ModelProto, rules: Rules, keep_float: set[str]) -> list[str]:
    """Names of the nodes of the rules' operators; a product of two activations has no weight and stays."""
    stored = initializers(model)
    names = []
    for node in model.graph.node:
        if node.op_type not in rules.operators or node.name in keep_float:
            continue
        if node.op_type in WEIGHTED and node.input[1] not in stored:
            continue
        names.append(node.name)
    return names or ["(none)"]  # an empty list would mean all


def _data(low: float, high: float) -> TensorData:
    return TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer logs advice through the root logger; what matters is told by us."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def add_pairs(model: onnx.ModelProto, readers: Mapping[str, Collection[str]], ranges: Mapping[str, Range]) -> None:
    """Put a Q/DQ pair, int8 and symmetric, before some readers of some tensors.

    Args:
        model: changed in place.
        readers: by tensor the names of the nodes that shall read it rounded.
        ranges: of these tensors, symmetric.
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
            renamed = [f"{stem}_dq" if item == tensor else item for item in node.input]
            del node.input[:]
            node.input.extend(renamed)
    for where, nodes in sorted(added, key=lambda item: -item[0]):
        for offset, node in enumerate(nodes):
            graph.node.insert(where + offset, node)


def residual_skips(model: onnx.ModelProto, keep_float: Collection[str]) -> dict[str, list[str]]:
    """For every sum of two branches the skipped one, with the names of the sums that read it.

    The branch that a weighted operator computes for this sum alone is merged with it by the runtime and stays as it
    is; where both are such, the second is taken. Sums whose operator is kept in float are passed over.
    """
    stored, readers = initializers(model), consumers(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type != "Add" or any(name in stored for name in node.input):
            continue
        merged = [
            name
            for name in node.input
            if name in made_by
            and made_by[name].op_type in WEIGHTED
            and made_by[name].name not in keep_float
            and len(readers[name]) == 1
        ]
        if merged:
            skip = next((name for name in node.input if name not in merged), node.input[1])
            found.setdefault(skip, []).append(node.name)
    return found
