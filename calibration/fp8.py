"""FP8 (E4M3) in place of INT8: the same Q/DQ pairs, with floating-point values of eight bits.

FP8 has a sign, four bits of exponent and three of mantissa, and ends at 448 (Micikevicius et al. 2022, "FP8 Formats for
Deep Learning"). Its rounding error is a share of each value, at most a sixteenth down to 3.5e-5 of the end, where that
of INT8 is a share of the largest value. So a range is the largest value that was seen: cutting it off would gain
nothing for the small ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from calibration.graph import attribute, initializers
from calibration.target import MIN_OPSET
from deploy.core.errors import ArtifactError
from deploy.support.onnx_file import opset

LARGEST = 448.0
"""Largest number of E4M3."""

_LARGEST_INT8 = 127.0


def to_fp8(model: onnx.ModelProto, weights: Mapping[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    """Replace the int8 types of a graph with symmetric Q/DQ pairs by FP8, in place, and return it.

    Activations keep the ends of their ranges. Weights are rounded anew, with the largest value of each channel at the
    end of the range.

    Args:
        model: a graph whose pairs are symmetric int8.
        weights: the float weights by the name of their int8 initializer, in its shape.

    Raises:
        ArtifactError: the opset is before 19, the first in which the pairs take FP8.
    """
    if opset(model) < MIN_OPSET:
        raise ArtifactError(f"FP8 needs opset {MIN_OPSET}, and the graph has {opset(model)}.")
    stored = initializers(model)
    scales: dict[str, np.ndarray[Any, Any]] = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        values, scale, zero_point = node.input
        if values in weights and values not in scales:
            scales[values] = scales[scale] = _store(
                stored[values], weights[values], stored[scale], attribute(node, "axis", 1)
            )
        elif scale not in scales:
            scales[scale] = numpy_helper.to_array(stored[scale]) * np.float32(_LARGEST_INT8 / LARGEST)
            _replace(stored[scale], scales[scale])
        if stored[zero_point].data_type != onnx.TensorProto.FLOAT8E4M3FN:
            zeros = np.zeros(tuple(stored[zero_point].dims), ml_dtypes.float8_e4m3fn)
            _replace(stored[zero_point], zeros)
    del model.graph.value_info[:]  # which name the int8 tensors
    return model


def _store(
    integers: onnx.TensorProto, weights: np.ndarray[Any, Any], scale: onnx.TensorProto, axis: int
) -> np.ndarray[Any, Any]:
    """Write weights and their scales, one for each channel if there were several; return the scales."""
    wide = weights.astype(np.float64)
    others = tuple(index for index in range(wide.ndim) if index != axis % wide.ndim) if scale.dims else None
    largest = np.abs(wide).max(axis=others, keepdims=bool(scale.dims))
    made = np.maximum(largest / LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
    _replace(integers, (wide / made).astype(np.float32).astype(ml_dtypes.float8_e4m3fn))
    scales: np.ndarray[Any, Any] = made.reshape(tuple(scale.dims))
    _replace(scale, scales)
    return scales


def _replace(tensor: onnx.TensorProto, values: np.ndarray[Any, Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
