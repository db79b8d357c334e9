"""OpenVINO on a CPU: types as for ONNX Runtime, Q/DQ pairs only before operators that run in INT8, float biases.

- Without VNNI, OpenVINO adds two products in 16 bits, as ONNX Runtime does, so weights take seven bits there.
- OpenVINO fuses what follows a convolution and propagates the quantization through other operators by itself. With
  Q/DQ pairs behind every operator, which ONNX Runtime needs, networks with sigmoids were slower (EfficientNet-B0 by
  half) and OpenVINO's process crashed on DenseNet's batch normalizations.
- A sum that stretches one tensor to the shape of the other stays in float: rounded, it was reported to end OpenVINO's
  process with SIGFPE (text recognition of PP-OCRv5).
- The input of a depthwise convolution has a scale for each channel; OpenVINO 2026.4 computes it in INT8 all the same.
- The input of a max-pool is quantized; otherwise the preceding convolution writes floats.
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
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool",
)  # fmt: skip


def rules(features: Collection[str]) -> QdqRules:
    """Return the rules for a CPU."""
    return QdqRules(grid=GRID, operators=OPERATORS, outputs=False, bias=False, reduce_range=saturates(features))


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str], features: Collection[str]
) -> onnx.ModelProto:
    """Quantize a graph; see `calibration.target.Quantize`."""
    from calibration.graph import broadcasting
    from calibration.qdq import insert

    return insert(model, ranges, rules(features), {*keep_float, *broadcasting(model, "Add")})


TARGET = Target(name="openvino", title="OpenVINO", grid=GRID, quantize=quantize, depthwise_channels=True, by_cpu=True)
