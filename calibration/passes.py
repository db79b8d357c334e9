"""Rewritings of a float graph that leave what it computes as it was; each returns a new graph."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.graph import attribute, initializers

Array = NDArray[Any]


def batch_norms_to_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Batch normalizations of (N, C, H, W) become depthwise 1 × 1 convolutions: the scale and shift of each channel.

    Scales and shifts are computed in float64 and rounded once.
    """
    if not any(node.op_type == "BatchNormalization" for node in model.graph.node):
        return model
    changed = copy.deepcopy(model)
    stored = initializers(changed)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) for value in (*changed.graph.input, *changed.graph.value_info)
    }
    for node in changed.graph.node:
        parameters = [stored.get(name) for name in node.input[1:5]]
        if node.op_type != "BatchNormalization" or ranks.get(node.input[0]) != 4 or None in parameters:
            continue
        scale, shift = _affine(parameters, attribute(node, "epsilon", 1e-5))
        names = [f"{node.output[0]}_scale", f"{node.output[0]}_shift"]
        weight = scale.astype(np.float32).reshape(-1, 1, 1, 1)
        changed.graph.initializer.append(numpy_helper.from_array(weight, names[0]))
        changed.graph.initializer.append(numpy_helper.from_array(shift.astype(np.float32), names[1]))
        read = node.input[0]
        del node.input[:], node.attribute[:], node.output[1:]
        node.op_type = "Conv"
        node.input.extend([read, *names])
        node.attribute.append(helper.make_attribute("group", len(scale)))
        node.attribute.append(helper.make_attribute("kernel_shape", [1, 1]))
    return changed


def _affine(parameters: list[Any], epsilon: float) -> tuple[Array, Array]:
    gamma, beta, mean, variance = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in parameters)
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale
