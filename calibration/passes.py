"""Graph passes that keep the function of a float graph; each returns a new graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.graph import attribute, initializers, tensor_types

Array = NDArray[Any]


def batch_norms_to_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace batch normalizations of (N, C, H, W) by depthwise 1 × 1 convolutions.

    The scale and shift of each channel are computed in float64 and rounded once, to float32.
    """
    if not any(node.op_type == "BatchNormalization" for node in model.graph.node):
        return model
    changed = copy.deepcopy(model)
    stored = initializers(changed)
    ranks = {name: len(kind.shape.dim) for name, kind in tensor_types(changed).items()}
    for node in changed.graph.node:
        parameters = [stored[name] for name in node.input[1:5] if name in stored]
        if node.op_type != "BatchNormalization" or ranks.get(node.input[0]) != 4 or len(parameters) < 4:
            continue
        scale, shift = _scale_and_shift(parameters, attribute(node, "epsilon", 1e-5))
        names = [f"{node.output[0]}_scale", f"{node.output[0]}_shift"]
        weight = scale.astype(np.float32).reshape(-1, 1, 1, 1)
        changed.graph.initializer.append(numpy_helper.from_array(weight, names[0]))
        changed.graph.initializer.append(numpy_helper.from_array(shift.astype(np.float32), names[1]))
        source = node.input[0]
        del node.input[:], node.attribute[:], node.output[1:]
        node.op_type = "Conv"
        node.input.extend([source, *names])
        node.attribute.append(helper.make_attribute("group", len(scale)))
        node.attribute.append(helper.make_attribute("kernel_shape", [1, 1]))
    return changed


def _scale_and_shift(parameters: Sequence[onnx.TensorProto], epsilon: float) -> tuple[Array, Array]:
    gamma, beta, mean, variance = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in parameters)
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale
