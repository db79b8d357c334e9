"""TensorRT: int8 about zero for activations and weights, float biases, Q/DQ before what shall run in eight bits.

- Its parser refuses zero-points other than 0, uint8, and DequantizeLinear of int32 biases.
- Every input of a weighted operator is rounded and its output is not: the operator is merged with the activation
  behind it, whose output the next operator's input rounds.
- Of a sum of two branches only the skipped one is rounded: the convolution that computes the other adds to its sums
  before they leave the registers.
- Average pools run in eight bits where their input is rounded; max-pools take the rounding that follows them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from calibration.grid import Grid, Range
from calibration.qdq import Rules, add_pairs, insert, residual_skips

GRID = Grid(symmetric=True)
RULES = Rules(
    grid=GRID,
    operators=("Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool", "GlobalAveragePool"),
    outputs=False,
    bias=False,
    pairs=True,
)


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str], features: Collection[str]
) -> onnx.ModelProto:
    """A quantized copy of the graph; see `calibration.quantize`."""
    made = insert(model, ranges, RULES, keep_float)
    add_pairs(made, residual_skips(model, keep_float), ranges)
    return made
