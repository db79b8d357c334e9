"""Cross-layer equalization: the channels between two convolutions get similar ranges.

A convolution without an activation behind it, or with a ReLU or a LeakyReLU, passes a positive factor of a channel on
unchanged, so that the first convolution can be divided by a scale and the second multiplied by it (Nagel, van Baalen,
Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1).
Before a depthwise convolution that costs no precision of the weights. A ReLU6 is left alone: it
would need a limit for each channel, an operator that runtimes compute in float.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from calibration.graph import attribute, consumers, initializers
from calibration.migration import Array, ChannelSize, ReadingWeight, choose_scales

_HOMOGENEOUS = ("Relu", "LeakyRelu")


def between_convolutions(model: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Return the pairs of convolutions by the tensor that the second reads.

    Pairs are left out if a tensor between them has another reader or is an output, or if a parameter is not stored
    or is shared with another node.
    """
    return dict(_pairs(model))


def equalize(model: onnx.ModelProto, sizes: dict[str, ChannelSize]) -> list[str]:
    """Scale the pairs of which the expected noise becomes smaller, in place; return the tensors between them."""
    stored = initializers(model)
    changed = []
    for tensor, (first, second) in _pairs(model):
        weights = [onnx.numpy_helper.to_array(stored[node.input[1]]).astype(np.float64) for node in (first, second)]
        depthwise = attribute(second, "group", 1) > 1
        scales = choose_scales(sizes[tensor], [ReadingWeight(weight=_three(weights[1]), depthwise=depthwise)])
        if scales is None:
            continue
        ndim = weights[0].ndim
        _store(stored[first.input[1]], weights[0] / scales.reshape(-1, *[1] * (ndim - 1)))
        if len(first.input) > 2:
            bias = onnx.numpy_helper.to_array(stored[first.input[2]]).astype(np.float64)
            _store(stored[first.input[2]], bias / scales)
        shape = (-1, *[1] * (ndim - 1)) if depthwise else (1, -1, *[1] * (ndim - 2))
        _store(stored[second.input[1]], weights[1] * scales.reshape(shape))
        changed.append(tensor)
    return changed


def _three(weight: Array) -> Array:
    return weight.reshape(*weight.shape[:2], -1)


def _store(tensor: onnx.TensorProto, value: Array) -> None:
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value, np.float32), tensor.name))


def _pairs(model: onnx.ModelProto) -> Iterator[tuple[str, tuple[onnx.NodeProto, onnx.NodeProto]]]:
    stored, readers = initializers(model), consumers(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}

    def is_private(name: str) -> bool:
        return len(readers.get(name, [])) == 1 and name not in outputs

    def has_own_parameters(node: onnx.NodeProto) -> bool:
        names = [name for name in node.input[1:] if name]
        return all(
            name in stored and is_private(name) and stored[name].data_type == onnx.TensorProto.FLOAT for name in names
        )

    for second in model.graph.node:
        first = producers.get(second.input[0]) if second.op_type == "Conv" else None
        if first is not None and first.op_type in _HOMOGENEOUS and attribute(first, "alpha", 0.01) >= 0:
            first = producers.get(first.input[0]) if is_private(first.input[0]) else None
        if first is None or first.op_type != "Conv" or not is_private(second.input[0]):
            continue
        if not (has_own_parameters(first) and has_own_parameters(second)):
            continue
        channels = stored[first.input[1]].dims[0]
        group, per_group = attribute(second, "group", 1), stored[second.input[1]].dims[1]
        if (group, per_group) == (1, channels) or (
            group == channels == stored[second.input[1]].dims[0] and per_group == 1
        ):
            yield second.input[0], (first, second)
