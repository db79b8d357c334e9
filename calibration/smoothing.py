"""SmoothQuant: outliers in the channels behind a layer normalization move into the weights that read them.

Single channels of a transformer's normalized activations are many times larger than the others, and leave few steps
for those. The normalization's scale and shift are divided by a scale for each channel, and the rows of the linear
layers that read it are multiplied by it (Xiao, Lin, Seznec, Wu, Demouth, Han, "SmoothQuant: Accurate and Efficient
Post-Training Quantization for Large Language Models", 2023). The rule holds for every product with a stored vector
along the last axis, such as a layer normalization or an RMS normalization that is written out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from calibration.graph import attribute, consumers, initializers, tensor_types
from calibration.migration import Array, ChannelSize, ReadingWeight, choose_scales


@dataclass(frozen=True, slots=True)
class Normalized:
    """A normalized tensor.

    Attributes:
        factors: for each vector that is divided by the scales, its node and the index of the input.
        readers: the linear layers that read the tensor, directly or after a change of its shape.
    """

    factors: tuple[tuple[onnx.NodeProto, int], ...]
    readers: tuple[onnx.NodeProto, ...]


def behind_norms(model: onnx.ModelProto) -> dict[str, Normalized]:
    """Return the tensors whose channels can be scaled; all of their readers are linear layers with stored weights."""
    return dict(_found(model))


def smooth(model: onnx.ModelProto, sizes: dict[str, ChannelSize]) -> list[str]:
    """Scale the tensors of which the expected noise becomes smaller, in place, and return them.

    Parameters get names of their own, since other nodes may share them.
    """
    stored = initializers(model)
    changed = []
    for tensor, found in _found(model):
        weights = [_weight(node, stored) for node in found.readers]
        scales = choose_scales(sizes[tensor], [ReadingWeight(weight=weight.T[:, :, None]) for weight in weights])
        if scales is None:
            continue
        for node, index in found.factors:
            value = onnx.numpy_helper.to_array(stored[node.input[index]]).astype(np.float64)
            _replace(model, node, index, value / scales)
        for node, weight in zip(found.readers, weights, strict=True):
            scaled = weight * scales[:, None]
            _replace(model, node, 1, scaled.T if attribute(node, "transB", 0) else scaled)
        changed.append(tensor)
    return changed


def _weight(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> Array:
    """Return the weight of a linear layer, (inputs, outputs), float64."""
    weight = onnx.numpy_helper.to_array(stored[node.input[1]]).astype(np.float64)
    return weight.T if attribute(node, "transB", 0) else weight


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, index: int, value: Array) -> None:
    name = f"{node.output[0]}_smoothed_{index}"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
    node.input[index] = name


def _found(model: onnx.ModelProto) -> Iterator[tuple[str, Normalized]]:
    stored, readers, types = initializers(model), consumers(model), tensor_types(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}

    def width(name: str) -> int:
        dims = types[name].shape.dim if name in types else []
        return dims[-1].dim_value if len(dims) > 1 else 0

    def vector(node: onnx.NodeProto, channels: int) -> int | None:
        """Return the index of the input of a node that is a stored vector along the last axis."""
        for index, name in enumerate(node.input):
            dims = list(stored[name].dims) if name in stored else []
            if dims and dims[-1] == channels == int(np.prod(dims)) and stored[name].data_type == onnx.TensorProto.FLOAT:
                return index
        return None

    def factors(tensor: str, channels: int) -> tuple[tuple[onnx.NodeProto, int], ...]:
        node = producers.get(tensor)
        if node is None:
            return ()
        if node.op_type == "LayerNormalization":
            last = attribute(node, "axis", -1) in (-1, len(types[tensor].shape.dim) - 1)
            given = [index for index in (1, 2) if len(node.input) > index and node.input[index]]
            fits = all(node.input[i] in stored and list(stored[node.input[i]].dims) == [channels] for i in given)
            return tuple((node, index) for index in given) if last and fits else ()
        index = vector(node, channels) if node.op_type in ("Add", "Mul") and len(node.input) == 2 else None
        if index is None:
            return ()
        other = node.input[1 - index]
        if node.op_type == "Mul":
            return ((node, index),) if width(other) == channels else ()
        private = len(readers[other]) == 1 and other not in outputs
        inner = (
            factors(other, channels)
            if private and producers.get(other) is not None and producers[other].op_type == "Mul"
            else ()
        )
        return (*inner, (node, index)) if inner else ()

    def layers(tensor: str, channels: int) -> list[onnx.NodeProto] | None:
        """Return the linear layers that read a tensor; None if another node does."""
        if tensor in outputs or width(tensor) != channels:
            return None
        found: list[onnx.NodeProto] = []
        for node in readers.get(tensor, []):
            if node.op_type in ("MatMul", "Gemm"):
                weight = stored.get(node.input[1])
                if (
                    weight is None
                    or len(weight.dims) != 2
                    or [i for i, name in enumerate(node.input) if name == tensor] != [0]
                    or attribute(node, "transA", 0)
                ):
                    return None
                if weight.data_type != onnx.TensorProto.FLOAT:
                    return None
                found.append(node)
            elif node.op_type == "Reshape" or (node.op_type == "Transpose" and _keeps_last(node)):
                inner = layers(node.output[0], channels)
                if inner is None:
                    return None
                found.extend(inner)
            else:
                return None
        return found

    for node in model.graph.node:
        if node.op_type not in ("LayerNormalization", "Add", "Mul"):
            continue
        tensor, channels = node.output[0], width(node.output[0])
        vectors = factors(tensor, channels) if channels else ()
        linear = layers(tensor, channels) if vectors else None
        if linear:
            yield tensor, Normalized(vectors, tuple(linear))


def _keeps_last(node: onnx.NodeProto) -> bool:
    order = attribute(node, "perm")
    return order is not None and order[-1] == len(order) - 1
