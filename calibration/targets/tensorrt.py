"""TensorRT: symmetric int8 activations and weights, float biases, Q/DQ pairs before operators that run in INT8.

- TensorRT's parser rejects zero-points other than 0, uint8, and DequantizeLinear of int32 biases.
- Every input of an operator with weights is quantized and its output is not: TensorRT fuses the operator with the
  activation behind it, and the next operator quantizes its own input.
- Of a residual sum only the skip branch is quantized: the convolution that computes the other branch adds the skip
  branch to its accumulators.
- Average pools run in INT8 if their input is quantized; max-pools take the quantization that follows them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from calibration.grid import Grid, Range
from calibration.target import QdqRules, Target

if TYPE_CHECKING:
    import numpy as np
    import onnx

RULES = QdqRules(
    grid=Grid(symmetric=True),
    operators=("Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool", "GlobalAveragePool"),
    outputs=False,
    bias=False,
    dedicated_pairs=True,
)


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str], features: Collection[str]
) -> onnx.ModelProto:
    """Quantize a graph; see `calibration.target.Quantize`."""
    return with_pairs(model, ranges, keep_float)


def with_pairs(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    keep_float: Collection[str],
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
) -> onnx.ModelProto:
    """Return a graph with int8 pairs, as `quantize` does; ``weights`` is that of `calibration.qdq.insert`."""
    from calibration.qdq import add_pairs, insert, residual_skips

    skips = residual_skips(model, keep_float)
    quantized = insert(model, ranges, RULES, keep_float, weights)
    add_pairs(quantized, skips, ranges)
    return quantized


TARGET = Target(name="tensorrt", title="TensorRT", grid=RULES.grid, quantize=quantize, half=True)
