"""OpenVINO on a CPU: as for ONNX Runtime, but Q/DQ only before what shall run in eight bits, and float biases.

- OpenVINO merges what follows a convolution into it and moves the rounding through the rest by itself. Q/DQ behind
  every operator, which ONNX Runtime wants, made networks with sigmoids slower (EfficientNet-B0 by half), and ended its
  process on DenseNet's batch normalizations.
- A max-pool's input is rounded: else the convolution before it writes floats.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from calibration.grid import Grid, Range
from calibration.qdq import Rules, insert

GRID = Grid(symmetric=False)
OPERATORS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul",
    "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool",
)  # fmt: skip
RULES = Rules(
    grid=GRID,
    operators=OPERATORS,
    outputs=False,
    bias=False,
)


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str], features: Collection[str]
) -> onnx.ModelProto:
    """A quantized copy of the graph; see `calibration.quantize`."""
    return insert(model, ranges, RULES, keep_float)
