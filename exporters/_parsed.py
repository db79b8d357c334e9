"""What a parsed TensorRT network says of itself before it is built: its layers, and what they compute in."""

from __future__ import annotations

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
    """Bytes of the weights that the builder was given, by type; shapes and other integers of 64 bits are no weights."""
    kinds = {
        "CONSTANT": (module.IConstantLayer, ("weights",)),
        "CONVOLUTION": (module.IConvolutionLayer, ("kernel", "bias")),
        "DECONVOLUTION": (module.IDeconvolutionLayer, ("kernel", "bias")),
        "SCALE": (module.IScaleLayer, ("scale", "shift", "power")),
    }
    found: Counter[str] = Counter()
    for layer in _layers(network):
        base, attributes = kinds.get(layer.type.name, (None, ()))
        if base is None:
            continue
        layer.__class__ = base  # how the bindings downcast: get_layer gives the base class
        for attribute in attributes:
            values = getattr(layer, attribute)
            kind = str(getattr(values.dtype, "name", values.dtype)).lower()
            if kind != "int64" and values.nbytes:
                found[kind] += int(values.nbytes)
    return dict(found)


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _rounded(layer: Any, made_by: Mapping[str, Any]) -> bool:
    """Whether a tensor comes from DequantizeLinear, reshaped and moved about at the most."""
    while layer is not None and layer.type.name in ("SHUFFLE", "POOLING", "CAST"):
        tensor = layer.get_input(0)
        layer = made_by.get(tensor.name) if tensor is not None else None
    return layer is not None and layer.type.name == "DEQUANTIZE"
