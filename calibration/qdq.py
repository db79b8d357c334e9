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
from onnxruntime.quantization.quant_utils import TENSOR_NAME_QUANT_SUFFIX, QuantType, add_infer_metadata

from calibration.graph import (
    CLIPPING,
    SAME_VALUES,
    WEIGHTED,
    attribute,
    consumers,
    depends_on_input,
    initializers,
    read_in_branches,
)
from calibration.grid import Range
from calibration.parameters import fold_gemm_factors, free_names, give_own_parameters
from calibration.target import QdqRules
from deploy.core.errors import ArtifactError

_COMBINING = ("Add", "Mul", "Concat", "Where")
"""Operators that combine tensors, each rounded to a scale of its own."""

_REWRITTEN = ("Conv", "ConvTranspose", "Gemm")
"""Float operators that ONNX Runtime rewrites to integer ones."""


def insert(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    rules: QdqRules,
    keep_float: Collection[str] = (),
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
) -> onnx.ModelProto:
    """Return a prepared float graph with Q/DQ pairs, which replace its weights in place; tensors keep their names.

    Only an inner tensor whose name the quantizer gives to another is renamed. ``weights`` receives the float weights by
    the names of those that replace them.

    Raises:
        ArtifactError: parts of the graph do not fit each other.
    """
    fold_gemm_factors(model)
    ranges = free_names(model, ranges)
    names = _nodes_to_quantize(model, rules, keep_float)
    give_own_parameters(model, frozenset(names))
    before = initializers(model) if weights is not None else {}
    linear = {name for node in model.graph.node if node.op_type in ("Gemm", "MatMul") for name in node.output}
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
            names or ["(none)"],  # the quantizer takes an empty list for all nodes
            [],
            list(rules.operators),
            {
                "ActivationSymmetric": rules.grid.symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": rules.bias,
                "DedicatedQDQPair": rules.dedicated_pairs,
                "OpTypesToExcludeOutputQuantization": [] if rules.outputs else list(rules.operators),
                "MatMulConstBOnly": True,
                "QDQOpTypePerChannelSupportToAxis": {"MatMul": -1},
                "ForceQuantizeNoInputCheck": not rules.outputs,  # a max-pool whose input no other node quantizes
            },
        )
        try:
            quantizer.quantize_model()
        except Exception as exc:  # whatever it raises for a graph whose parts do not fit each other
            raise ArtifactError(f"the graph cannot be quantized: {type(exc).__name__}: {exc}.") from exc
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    if weights is not None:
        replaced = {f"{name}{TENSOR_NAME_QUANT_SUFFIX}": tensor for name, tensor in before.items()}
        rounded = replaced.keys() & initializers(quantized).keys()
        weights.update((name, onnx.numpy_helper.to_array(replaced[name])) for name in rounded)
    if rules.outputs:
        _keep_apart(quantized)
        _free_outputs(quantized, linear)
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
    """Return the names of the nodes to quantize.

    A product of two activations has no weights and stays in float. So does what depends on no input, such as the
    anchors of a detector, and what combines it with an activation: rounding it is noise that saves no time.
    """
    stored, dependent, inner = initializers(model), depends_on_input(model), read_in_branches(model)

    def is_constant(name: str) -> bool:
        """Whether a tensor has the same values for every input, and more than one."""
        if name not in stored:
            return bool(name) and name not in dependent
        values = onnx.numpy_helper.to_array(stored[name])
        return values.dtype.kind == "f" and values.size > 1 and bool((values != values.flat[0]).any())

    def fits(node: onnx.NodeProto) -> bool:
        if node.op_type in WEIGHTED:
            return node.input[1] in stored and not _has_group_bias(node)
        if node.op_type in CLIPPING and not inner.isdisjoint([node.input[0], *node.output]):
            return False  # the quantizer would remove it, and a branch would read what was not clipped
        return node.op_type not in _COMBINING or not any(map(is_constant, node.input))

    return [
        node.name
        for node in model.graph.node
        if node.op_type in rules.operators
        and node.name not in keep_float
        and dependent.issuperset(node.output)
        and fits(node)
    ]


def _has_group_bias(node: onnx.NodeProto) -> bool:
    """Whether a bias has another number of channels than the scales of the weights."""
    return node.op_type == "ConvTranspose" and len(node.input) > 2 and attribute(node, "group", 1) > 1


def _keep_apart(model: onnx.ModelProto) -> None:
    """Prevent ONNX Runtime from rounding the weights of float layers between Q/DQ pairs, in place.

    It rewrites DequantizeLinear, Conv, Relu or Clip, QuantizeLinear to an integer convolution, and rounds stored float
    weights to one scale for it. A maximum of one tensor returns the tensor, and no optimization removes it.
    """
    graph, stored, readers = model.graph, initializers(model), consumers(model)
    producers = {name: node for node in graph.node for name in node.output}

    def follows_pair(name: str) -> bool:
        node = producers.get(name)
        while node is not None and node.op_type in SAME_VALUES:
            node = producers.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    def precedes_pair(name: str) -> bool:
        nodes = readers.get(name, [])
        while len(nodes) == 1 and nodes[0].op_type in (*CLIPPING, *SAME_VALUES):
            nodes = readers.get(nodes[0].output[0], [])
        return any(node.op_type == "QuantizeLinear" for node in nodes)

    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type not in _REWRITTEN or node.input[1] not in stored:
            continue
        if follows_pair(node.input[0]) and precedes_pair(node.output[0]):
            name = f"{node.output[0]}_float_input"
            graph.node.insert(index, onnx.helper.make_node("Max", [node.input[0]], [name], f"{node.name}_apart"))
            node.input[0] = name


def _free_outputs(model: onnx.ModelProto, linear: Collection[str]) -> None:
    """Remove the rounding of graph outputs among ``linear``, in place: INT8 kernels of linear layers write floats."""
    graph, readers = model.graph, consumers(model)
    producers = {name: node for node in graph.node for name in node.output}
    for value in graph.output:
        dequantize = producers.get(value.name)
        quantize = producers.get(dequantize.input[0]) if dequantize is not None else None
        if value.name not in linear or dequantize is None or quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        layer = producers.get(quantize.input[0])
        only = not readers.get(value.name) and len(readers[dequantize.input[0]]) == len(readers[quantize.input[0]]) == 1
        if only and layer is not None and layer.op_type in ("Gemm", "MatMul"):
            layer.output[0] = value.name
            graph.node.remove(dequantize)
            graph.node.remove(quantize)


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the quantizer, which logs advice through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
