"""Convolutions and the sum of overlapping blocks."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from deploy.onnx_graph.node import OnnxNode, operator
from deploy.onnx_graph.windows import both_ends, halves, windows

Tensor = torch.Tensor

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


@operator("Conv")
def convolution(node: OnnxNode, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve 1 to 3 spatial axes."""
    moves = windows(node, x.shape[2:], weight.shape[2:])
    padding: int | tuple[int, ...] = moves.begin
    if not moves.symmetric:
        x, padding = moves.padded(x), 0
    apply = _CONVOLUTIONS[x.dim() - 2]
    return apply(x, weight, bias, moves.strides, padding, moves.dilations, node.get("group", 1))


@operator("ConvTranspose")
def transposed(node: OnnxNode, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve transposed: the whole result, then cropped or extended to the size that the attributes ask for."""
    moves = windows(node, x.shape[2:], weight.shape[2:])
    whole = _TRANSPOSED[x.dim() - 2](x, weight, None, moves.strides, 0, 0, node.get("group", 1), moves.dilations)
    extra = node.get("output_padding") or (0,) * len(moves.sizes)
    policy = node.get("auto_pad", "NOTSET")
    wanted = node.get("output_shape")
    if not wanted and policy.startswith("SAME"):
        wanted = tuple(size * stride for size, stride in zip(moves.sizes, moves.strides, strict=True))
    begin, end = moves.begin, moves.end
    if wanted:
        full = [size + more for size, more in zip(whole.shape[2:], extra, strict=True)]
        totals = [size - target for size, target in zip(full, wanted[-len(full) :], strict=True)]
        begin, end = halves(totals, upper=policy == "SAME_UPPER")
    crop = both_ends([-amount for amount in begin], [more - amount for more, amount in zip(extra, end, strict=True)])
    result = functional.pad(whole, crop) if any(crop) else whole
    return result if bias is None else result + bias.reshape(-1, *(1 for _ in moves.sizes))


@operator("DeformConv")
def deformable(
    node: OnnxNode, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Convolve 2 spatial axes at positions that are moved by ``offset``."""
    import torchvision  # takes seconds, as it imports torch._dynamo

    moves = windows(node, x.shape[2:], weight.shape[2:])
    result: Tensor = torchvision.ops.deform_conv2d(
        moves.padded(x), offset, weight, bias, moves.strides, 0, moves.dilations, mask
    )
    return result


@operator("Col2Im")
def overlapped(node: OnnxNode, x: Tensor, image_shape: Tensor, block_shape: Tensor) -> Tensor:
    """Add up blocks, [N, C * prod(block), L], where they lie in the image."""
    sizes, block = image_shape.tolist(), block_shape.tolist()
    moves = windows(node, sizes, block)
    padded = [size + begin + end for size, begin, end in zip(sizes, moves.begin, moves.end, strict=True)]
    counts = [
        (size - span) // stride + 1 for size, span, stride in zip(padded, moves.spans, moves.strides, strict=True)
    ]
    places = torch.zeros([1] * (2 * len(sizes)), dtype=torch.int64)
    for axis, (size, stride, dilation) in enumerate(zip(padded, moves.strides, moves.dilations, strict=True)):
        shape = [1] * places.dim()
        shape[axis] = block[axis]
        inside = (torch.arange(block[axis]) * dilation).reshape(shape)
        shape[axis], shape[len(sizes) + axis] = 1, counts[axis]
        places = places * size + inside + (torch.arange(counts[axis]) * stride).reshape(shape)
    values = x.reshape(x.shape[0], -1, math.prod(block) * math.prod(counts))
    flat = torch.zeros((*values.shape[:2], math.prod(padded)), dtype=x.dtype)
    image = flat.index_add(2, places.reshape(-1), values).reshape(*values.shape[:2], *padded)
    crop = [-amount for amount in moves.padding]
    return functional.pad(image, crop) if any(crop) else image
