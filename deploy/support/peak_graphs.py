"""Compute-bound graphs: their throughput is the measured peak of the machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MATRIX = 1024
"""Rows and columns of the matrices."""

CHANNELS, PIXELS = 128, 56
"""Channels, and height and width in pixels, of the 3 x 3 convolution."""

INPUTS = {"matmul": (MATRIX, MATRIX), "conv": (1, CHANNELS, PIXELS, PIXELS)}
OPERATIONS = {"matmul": 2 * MATRIX**3, "conv": 2 * PIXELS**2 * CHANNELS**2 * 9}
"""Operations per run; a multiply-add is two."""

SHAPES = {"matmul": (MATRIX, MATRIX), "conv": (CHANNELS, CHANNELS, 3, 3)}


def write(path: Path, kind: str, precision: str) -> None:
    """Write one layer with constant weights; in int8 with Q and DQ nodes, unsigned activations and signed weights."""
    weights = np.random.default_rng(0).standard_normal(SHAPES[kind]).astype(np.float32)
    tensors = [numpy_helper.from_array(weights, "w")]
    nodes = [_layer(kind, "x", "w", "y")]
    if precision == "int8":
        scale = np.float32(np.abs(weights).max() / 127)
        tensors = [
            numpy_helper.from_array(np.round(weights / scale).astype(np.int8), "w"),
            numpy_helper.from_array(np.array(scale), "ws"),
            numpy_helper.from_array(np.array(0, np.int8), "wz"),
            numpy_helper.from_array(np.array(0.05, np.float32), "s"),
            numpy_helper.from_array(np.array(128, np.uint8), "z"),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
            _layer(kind, "xd", "wd", "f"),
            helper.make_node("QuantizeLinear", ["f", "s", "z"], ["fq"]),
            helper.make_node("DequantizeLinear", ["fq", "s", "z"], ["y"]),
        ]
    shape = INPUTS[kind]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, kind, values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _layer(kind: str, x: str, w: str, y: str) -> onnx.NodeProto:
    if kind == "conv":
        return helper.make_node("Conv", [x, w], [y], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return helper.make_node("MatMul", [x, w], [y])
