"""Layers of a parsed TensorRT network, and the types in which they compute."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


def layer_counts(network: Any) -> dict[str, int]:
    """Return the number of layers by type."""
    return dict(Counter(layer.type.name for layer in _layers(network)))


def weighted(network: Any) -> dict[str, int]:
    """Return the number of convolutions and matrix products by the type in which they compute.

    The type is ``int8`` or ``fp8`` if both operands come from DequantizeLinear, else the type of the first operand.
    """
    layers = list(_layers(network))
    producers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name in WEIGHTED:
            operands = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
            operands = [tensor for tensor in operands if tensor is not None]
            stored = [_dequantized(producers.get(tensor.name), producers) for tensor in operands]
            counts[stored[0] if stored and all(stored) else operands[0].dtype.name.lower()] += 1
    return dict(counts)


def weight_bytes(network: Any, module: Any) -> dict[str, int]:
    """Return the bytes of constants and kernels by type, computed from shapes, since reading the values copies them.

    64-bit integers are shapes, not weights, and are left out.
    """
    sizes: Counter[str] = Counter()
    for layer in _layers(network):
        kind = layer.type.name
        if kind == "CONSTANT":
            tensor, count = layer.get_output(0), math.prod(layer.get_output(0).shape)
        elif kind in ("CONVOLUTION", "DECONVOLUTION") and layer.num_inputs == 1:  # otherwise its kernel is a constant
            tensor = layer.get_input(0)
            convolution = layer
            # get_layer returns the base class; assigning the class is how the bindings downcast
            convolution.__class__ = module.IConvolutionLayer if kind == "CONVOLUTION" else module.IDeconvolutionLayer
            kernels = tensor.shape[1] // convolution.num_groups * convolution.num_output_maps
            count = kernels * math.prod(convolution.kernel_size_nd)
        else:
            continue
        if tensor.dtype.name != "INT64":
            sizes[tensor.dtype.name.lower()] += int(count * tensor.dtype.itemsize)
    return dict(sizes)


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _dequantized(layer: Any, producers: Mapping[str, Any]) -> str:
    """Return the type that DequantizeLinear reads; empty if a layer's output does not come from it.

    In between it may be reshaped, pooled or cast.
    """
    while layer is not None and layer.type.name in ("SHUFFLE", "POOLING", "CAST"):
        tensor = layer.get_input(0)
        layer = producers.get(tensor.name) if tensor is not None else None
    is_found = layer is not None and layer.type.name == "DEQUANTIZE"
    return layer.get_input(0).dtype.name.lower() if is_found else ""
