"""ONNX Runtime on a CPU: uint8 activations with any zero-point, int8 weights for each output channel, int32 biases.

- CPUs with VNNI multiply uint8 by int8 in one instruction. int8 by int8, which ONNX Runtime's documentation recommends
  first, took three times as long on ResNet-18. Without VNNI 16-bit sums may overflow, so weights take seven bits.
- Outputs are quantized too, so that long sections of the graph run in INT8. Activations that only clip (ReLU, ReLU6)
  disappear into the quantization.
- A batch normalization without a preceding convolution (DenseNet) has no INT8 kernel; it is rewritten to a depthwise
  1 × 1 convolution, which has one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from calibration.grid import Grid, Range
from calibration.target import QdqRules, Target
from deploy.core.cpu import saturates

if TYPE_CHECKING:
    import onnx

GRID = Grid(symmetric=False)
OPERATORS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul",
    "Relu", "Clip", "LeakyRelu", "Sigmoid", "Softmax",
    "Add", "Mul", "Concat", "Where",
    "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Pad",
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Split", "Slice", "Gather",
)  # fmt: skip
"""Operators for which ONNX Runtime has INT8 kernels."""


def rules(features: Collection[str]) -> QdqRules:
    """Return the rules for a CPU."""
    return QdqRules(grid=GRID, operators=OPERATORS, reduce_range=saturates(features))


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str], features: Collection[str]
) -> onnx.ModelProto:
    """Quantize a graph; see `calibration.target.Quantize`."""
    from calibration.graph import batch_norms_to_convolutions
    from calibration.qdq import insert

    return insert(batch_norms_to_convolutions(model), ranges, rules(features), keep_float)


TARGET = Target(name="onnxruntime", title="ONNX Runtime", grid=GRID, by_cpu=True, quantize=quantize)
