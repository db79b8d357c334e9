"""ONNX Runtime on a CPU: uint8 activations with any zero-point, int8 weights by output channel, int32 biases.

- Processors with VNNI multiply uint8 by int8 in one instruction; int8 by int8, the documented first choice, took three
  times as long on ResNet-18. Without VNNI the 16-bit sums may overflow, and weights take seven bits.
- Outputs are rounded too, so that whole stretches of the graph run in eight bits; activations that only cut off (ReLU,
  ReLU6) vanish into the rounding.
- A batch normalization that no convolution precedes (DenseNet) has no eight-bit kernel; as a depthwise 1 × 1
  convolution it has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from calibration.grid import Grid, Range
from calibration.passes import batch_norms_to_convolutions
from calibration.qdq import Rules, insert

GRID = Grid(symmetric=False)
OPERATORS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul",
    "Relu", "Clip", "LeakyRelu", "Sigmoid", "Softmax",
    "Add", "Mul", "Concat", "Where",
    "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Pad",
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Split", "Slice", "Gather",
)  # fmt: skip
"""What ONNX Runtime has eight-bit kernels for."""

MULTIPLIES_BYTES = ("avx512_vnni", "avx_vnni", "asimddp", "amx_int8")
"""Processor features with which sums of products of bytes do not overflow."""


def rules(features: Collection[str]) -> Rules:
    """The rules for a processor with these features, as the operating system lists them."""
    return Rules(grid=GRID, operators=OPERATORS, reduce_range=not set(MULTIPLIES_BYTES) & set(features))


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str], features: Collection[str]
) -> onnx.ModelProto:
    """A quantized copy of the graph; see `calibration.quantize`."""
    return insert(batch_norms_to_convolutions(model), ranges, rules(features), keep_float)
