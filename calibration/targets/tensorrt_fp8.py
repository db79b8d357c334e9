"""TensorRT in FP8 (E4M3), for GPUs of compute capability 8.9 and later: the pairs of the target ``tensorrt``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from calibration.grid import Range
from calibration.target import Target
from calibration.targets import tensorrt

if TYPE_CHECKING:
    import numpy as np
    import onnx


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str], features: Collection[str]
) -> onnx.ModelProto:
    """Quantize a graph; see `calibration.target.Quantize`."""
    from calibration.fp8 import to_fp8

    weights: dict[str, np.ndarray[Any, Any]] = {}
    return to_fp8(tensorrt.with_pairs(model, ranges, keep_float, weights), weights)


TARGET = Target(name="tensorrt-fp8", title="TensorRT, FP8", grid=tensorrt.RULES.grid, quantize=quantize, floating=True)
