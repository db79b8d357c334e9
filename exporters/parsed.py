"""What a parsed TensorRT network says of itself before it is built: its layers, and what they compute in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


def layer_counts(network: Any) -> dict[str, int]:
    """Layers by type."""
    return dict(Counter(layer.type.name for layer in _layers(network)))


def weighted(network: Any) -> dict[str, int]:
    """Convolutions and products with weights by what they compute in.

    ``int8`` where both operands come from DequantizeLinear, else the operands' type.
    """
    layers = list(_layers(network))
    made_by = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    found: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name in WEIGHTED:
            operands = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
            operands = [tensor for tensor in operands if tensor is not None]
            rounded = [_rounded(made_by.get(tensor.name), made_by) for tensor in operands]
            found["int8" if rounded and all(rounded) else operands[0].dtype.name.lower()] += 1
    return dict(found)


def weight_bytes(network: Any, module: Any) -> dict[str, int]:
    """Bytes of the constants and kernels that the builder was given, by type.

    They are counted by shape: to look at the values would copy them. Integers of 64 bits are shapes, not weights.
    """
    found: Counter[str] = Counter()
    for layer in _layers(network):
        kind = layer.type.name
        if kind == "CONSTANT":
            tensor, count = layer.get_output(0), math.prod(layer.get_output(0).shape)
        elif kind in ("CONVOLUTION", "DECONVOLUTION") and layer.num_inputs == 1:  # else a constant is its kernel
            tensor = layer.get_input(0)
            convolution = layer
            # how the bindings downcast: get_layer gives the base class
            convolution.__class__ = module.IConvolutionLayer if kind == "CONVOLUTION" else module.IDeconvolutionLayer
            through = tensor.shape[1] // convolution.num_groups * convolution.num_output_maps
            count = through * math.prod(convolution.kernel_size_nd)
        else:
            continue
        if tensor.dtype.name != "INT64":
            found[tensor.dtype.name.lower()] += int(count * tensor.dtype.itemsize)
    return dict(found)


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _rounded(layer: Any, made_by: Mapping[str, Any]) -> bool:
    """Whether a tensor comes from DequantizeLinear, reshaped and moved about at the most."""
    while layer is not None and layer.type.name in ("SHUFFLE", "POOLING", "CAST"):
        tensor = layer.get_input(0)
        layer = made_by.get(tensor.name) if tensor is not None else None
    return layer is not None and layer.type.name == "DEQUANTIZE"
