"""Operations and memory traffic of a graph.

A multiply-add counts as two operations. Bytes are the sizes of every operator's inputs and outputs, each read or
written once: an upper bound for a runtime that fuses operators, a lower bound for one that does not. Operators of
unknown cost are listed, not counted as zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from deploy.core.errors import ArtifactError
from deploy.support import onnx_file
from deploy.support.costs import Costs

Shapes = Mapping[str, tuple[int, ...]]

_FREE = """
    Reshape Flatten Squeeze Unsqueeze Identity Shape Size Constant ConstantOfShape Cast CastLike Transpose Slice Split
    Concat Gather GatherElements GatherND ScatterND ScatterElements Expand Tile Pad DepthToSpace SpaceToDepth Range
    NonZero Dropout Where Equal Greater GreaterOrEqual Less LessOrEqual And Or Not Xor OneHot Trilu
"""
"""Operators that move values without arithmetic."""

_PER_OUTPUT = {
    1: """Add Sub Mul Div Neg Abs Relu LeakyRelu PRelu Clip Max Min Floor Ceil Round Sign Sqrt Reciprocal Mod BitShift
          QuantizeLinear DequantizeLinear ThresholdedRelu Sum Mean
          Exp Log Sigmoid Tanh Erf Pow Sin Cos Softplus HardSigmoid Elu Selu Atan""",
    2: "BatchNormalization",
    3: "HardSwish Softsign",
    5: "Gelu Mish Swish",
    7: "Resize",
    10: "GridSample",
}
_PER_INPUT = {
    1: "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd GlobalAveragePool GlobalMaxPool ArgMax ArgMin CumSum",
    3: "Softmax LogSoftmax ReduceL1 ReduceL2 ReduceSumSquare LpNormalization",
    7: "LayerNormalization InstanceNormalization GroupNormalization RMSNormalization",
}
"""Operators by operations per element; a transcendental function counts as one."""

FREE = frozenset(_FREE.split())
PER_OUTPUT = {name: cost for cost, names in _PER_OUTPUT.items() for name in names.split()}
PER_INPUT = {name: cost for cost, names in _PER_INPUT.items() for name in names.split()}


_LARGE_BYTES = 1 << 12
"""Stored tensors of this size are weights, whose values do not affect shape inference."""


def costs(path: Path, sizes: Mapping[str, int]) -> Costs:
    """Count the operations and bytes of a file at sizes of its dynamic dimensions.

    Raises:
        ArtifactError: the file is damaged.
    """
    return count(onnx_file.load(path), path, sizes)


def count(model: onnx.ModelProto, path: Path, sizes: Mapping[str, int]) -> Costs:
    """Count the operations and bytes of a graph that was read from ``path``; the graph is changed."""
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            name = dim.dim_param or f"{value.name}_dim{axis}"
            size = sizes.get(name, sizes.get("?") if not dim.dim_param and dim.dim_value <= 0 else None)
            if size is not None:
                dim.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _LARGE_BYTES:
            tensor.ClearField("raw_data")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as exc:
        raise ArtifactError(f"{path}: shapes cannot be inferred: {exc}") from exc
    return _total(inferred)


def _total(model: onnx.ModelProto) -> Costs:
    shapes, width = _shapes(model.graph)
    operations: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    by_precision: Counter[str] = Counter()
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    moved = 0
    for node in onnx_file.all_nodes(model):
        names = [name for name in (*node.input, *node.output) if name]
        if node.op_type not in FREE:
            known = all(name in shapes for name in (*node.input[:2], *node.output[:1]) if name)
            count = operations_of(node, shapes) if known else None
            if count is None:
                unknown[node.op_type] += 1
                continue
            operations[node.op_type] += count
            if node.op_type not in _ROUNDING:
                by_precision[_precision(node, dequantized, width)] += count
        if node.op_type not in _NO_TRAFFIC:
            moved += sum(math.prod(shapes[name]) * width.get(name, 4) for name in names if name in shapes)
    return Costs(
        operations=sum(operations.values()),
        bytes=moved,
        by_operator=dict(operations.most_common()),
        by_precision=dict(by_precision),
        minimum_bytes=_minimum_bytes(model.graph, shapes, width),
        unknown=dict(unknown.most_common()),
        parameters=_parameters(model),
    )


def _parameters(model: onnx.ModelProto) -> int:
    kinds = ((item, onnx.helper.tensor_dtype_to_np_dtype(item.data_type)) for item in onnx_file.stored_tensors(model))
    return sum(math.prod(item.dims) for item, kind in kinds if kind.kind == "f" or kind.itemsize == 1)


_ROUNDING = ("QuantizeLinear", "DequantizeLinear")
_NO_TRAFFIC = ("Constant", "Shape", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_FUSED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def _precision(node: onnx.NodeProto, dequantized: set[str], width: Mapping[str, int]) -> str:
    if node.op_type in _FUSED and set(node.input[:2]) <= dequantized:
        return "int8"
    return "fp16" if width.get(node.output[0] if node.output else "") == 2 else "fp32"


def _minimum_bytes(graph: onnx.GraphProto, shapes: Shapes, width: Mapping[str, int]) -> int:
    weights = {item.name for item in graph.initializer}
    names = [*weights, *(item.name for item in (*graph.input, *graph.output) if item.name not in weights)]
    return sum(math.prod(shapes[name]) * width.get(name, 4) for name in names if name in shapes)


def _shapes(graph: onnx.GraphProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    shapes: dict[str, tuple[int, ...]] = {}
    width: dict[str, int] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
            width[value.name] = onnx_file.element_bytes(kind.elem_type)
    for tensor in graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        width[tensor.name] = onnx_file.element_bytes(tensor.data_type)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].type == onnx.AttributeProto.TENSOR:
            shapes.update((name, tuple(node.attribute[0].t.dims)) for name in node.output)
    return shapes, width


def _conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    weight, output = shapes[node.input[1]], math.prod(shapes[node.output[0]])
    bias = output if len(node.input) > 2 and node.input[2] else 0
    return 2 * output * math.prod(weight[1:]) + bias


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    weight = shapes[node.input[1]]
    bias = math.prod(shapes[node.output[0]]) if len(node.input) > 2 and node.input[2] else 0
    return 2 * math.prod(shapes[node.input[0]]) * math.prod(weight[1:]) + bias


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return 2 * math.prod(shapes[node.output[0]]) * (shapes[node.input[0]] or (1,))[-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    depth = shapes[node.input[0]][0 if transposed else -1]
    output = math.prod(shapes[node.output[0]])
    return 2 * output * depth + (output if len(node.input) > 2 and node.input[2] else 0)


def _pool(node: onnx.NodeProto, shapes: Shapes) -> int:
    kernel = next((list(item.ints) for item in node.attribute if item.name == "kernel_shape"), [1])
    return math.prod(shapes[node.output[0]]) * math.prod(kernel)


FORMULAS: Mapping[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "MaxPool": _pool,
    "AveragePool": _pool,
}


def operations_of(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Return the operations of a node; None where its operator or a shape it needs is unknown."""
    try:
        if node.op_type in FORMULAS:
            return FORMULAS[node.op_type](node, shapes)
        if node.op_type in PER_OUTPUT:
            return PER_OUTPUT[node.op_type] * math.prod(shapes[node.output[0]])
        if node.op_type in PER_INPUT:
            return PER_INPUT[node.op_type] * math.prod(shapes[node.input[0]])
    except (IndexError, KeyError):  # it lacks an input, an output or a dimension that the operator needs
        pass
    return None
