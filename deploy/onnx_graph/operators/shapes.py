"""Shapes, parts and arrangements of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional

from deploy.onnx_graph.constants import dtype_of
from deploy.onnx_graph.node import OnnxNode, operator

Tensor = torch.Tensor


def numbers(node: OnnxNode, attribute: str, value: Tensor | None) -> list[int] | None:
    """Return integers that are an input, or in older operator sets an attribute; None if the node has neither."""
    if value is not None:
        return [int(item) for item in value.reshape(-1).tolist()]
    given = node.get(attribute)
    return None if given is None else list(given)


@operator("Shape")
def shape(node: OnnxNode, x: Tensor) -> Tensor:
    """Return sizes."""
    return torch.tensor(x.shape[node.get("start", 0) : node.get("end")], dtype=torch.int64)


@operator("Size")
def size(_: OnnxNode, x: Tensor) -> Tensor:
    """Return the number of elements."""
    return torch.tensor(x.numel())


@operator("Reshape")
def reshape(node: OnnxNode, x: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Change the shape: 0 is the size that the axis has, unless ``allowzero``, and -1 what is left."""
    wanted = numbers(node, "shape", sizes) or []
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if item == 0 else item for axis, item in enumerate(wanted)]
    if -1 in wanted:
        known = math.prod(item for item in wanted if item != -1)
        wanted[wanted.index(-1)] = x.numel() // known if known else 0
    return x.reshape(tuple(wanted))


@operator("Flatten")
def flatten(node: OnnxNode, x: Tensor) -> Tensor:
    """Return a matrix."""
    axis = node.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(node: OnnxNode, x: Tensor) -> Tensor:
    """Permute axes; without ``perm`` reverse them."""
    return x.permute(node.get("perm", tuple(range(x.dim()))[::-1]))


@operator("Squeeze")
def squeeze(node: OnnxNode, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Remove axes of size 1, all or those named."""
    named = numbers(node, "axes", axes)
    return x.squeeze() if named is None else x.squeeze(tuple(named))


@operator("Unsqueeze")
def unsqueeze(node: OnnxNode, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Insert axes of size 1 so that they have the named places."""
    named = numbers(node, "axes", axes) or []
    rank = x.dim() + len(named)
    for axis in sorted(axis % rank for axis in named):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(node: OnnxNode, *inputs: Tensor) -> Tensor:
    """Join tensors along an axis."""
    return torch.cat(inputs, node.get("axis", 1))


@operator("Split")
def split(node: OnnxNode, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split along an axis into parts of given sizes, or into equal ones of which the last may be smaller."""
    axis = node.get("axis", 0)
    wanted = numbers(node, "split", sizes)
    if wanted is None:
        parts, whole = node.get("num_outputs", len(node.outputs)), x.shape[axis]
        each = -(-whole // parts)
        wanted = [stop - start for start, stop in pairwise(min(whole, index * each) for index in range(parts + 1))]
    return torch.split(x, wanted, axis)


@operator("Slice")
def cut(
    node: OnnxNode,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Cut out elements; starts and ends beyond an axis are limited to it."""
    first, last = numbers(node, "starts", starts) or [], numbers(node, "ends", ends) or []
    named = numbers(node, "axes", axes) or range(len(first))
    by = numbers(node, "steps", steps) or [1] * len(first)
    for axis, start, end, step in zip(named, first, last, by, strict=True):
        x = _cut(x, axis % x.dim(), start, end, step)
    return x


def _cut(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    count = x.shape[axis]
    start, end = (value + count if value < 0 else value for value in (start, end))
    if step > 0:
        kept = range(min(max(start, 0), count), min(max(end, 0), count), step)
    else:
        kept = range(min(max(start, 0), count - 1), min(max(end, -1), count - 1), step)
    low, high = (kept[0], kept[-1]) if step > 0 and kept else (kept[-1], kept[0]) if kept else (0, -1)
    index = (*[slice(None)] * axis, slice(low, high + 1, abs(step)))
    result = x[index]
    return result if step > 0 else result.flip(axis)


@operator("Expand")
def expand(_: OnnxNode, x: Tensor, sizes: Tensor) -> Tensor:
    """Repeat axes of size 1; a size of 1 keeps the axis."""
    return x.expand(torch.broadcast_shapes(x.shape, sizes.tolist()))  # type: ignore[no-untyped-call]


@operator("Tile")
def tile(node: OnnxNode, x: Tensor, repeats: Tensor, axis: Tensor | None = None) -> Tensor:
    """Repeat a tensor along its axes; before operator set 6 along one."""
    counts = repeats.tolist()
    if axis is not None:
        counts = [int(repeats) if index == int(axis) % x.dim() else 1 for index in range(x.dim())]
    return x.repeat(counts)


@operator("Pad")
def pad(
    node: OnnxNode, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Remove elements at the ends of axes where the number is negative, then add some where it is positive."""
    wanted = numbers(node, "paddings" if node.version < 2 else "pads", pads) or []
    half = len(wanted) // 2
    named = [axis % x.dim() for axis in numbers(node, "axes", axes) or range(half)]
    around = dict(zip(named, zip(wanted[:half], wanted[half:], strict=True), strict=True))
    mode = node.get("mode", "constant")
    if mode == "constant":
        fill = node.get("value", 0.0) if value is None else value.item()
        return _padded(x, around, fill)
    x = _padded(x, {axis: (min(before, 0), min(after, 0)) for axis, (before, after) in around.items()})
    for axis, (before, after) in around.items():
        if before > 0 or after > 0:
            count = x.shape[axis]
            places = [_inside(place, count, mode) for place in range(-max(before, 0), count + max(after, 0))]
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x


def _padded(x: Tensor, around: dict[int, tuple[int, int]], fill: Any = 0) -> Tensor:
    """Pad axes with a constant."""
    flat = [count for axis in reversed(range(x.dim())) for count in around.get(axis, (0, 0))]
    return functional.pad(x, flat, value=fill) if x.is_floating_point() else functional.pad(x, flat, value=int(fill))


def _inside(place: int, count: int, mode: str) -> int:
    """Return the element that stands at a place beyond the ends of an axis."""
    if mode == "edge":
        return min(max(place, 0), count - 1)
    if mode == "wrap":
        return place % count
    place %= max(2 * (count - 1), 1)
    return min(place, 2 * (count - 1) - place)


@operator("CenterCropPad")
def center_crop_pad(node: OnnxNode, x: Tensor, sizes: Tensor) -> Tensor:
    """Crop or pad axes evenly at both ends; an odd element is at the end."""
    around = {}
    for axis, wanted in zip(node.get("axes", range(x.dim())), sizes.tolist(), strict=True):
        missing = wanted - x.shape[axis]
        before = missing // 2 if missing > 0 else -(-missing // 2)
        around[axis % x.dim()] = (before, missing - before)
    return _padded(x, around)


@operator("DepthToSpace")
def depth_to_space(node: OnnxNode, x: Tensor) -> Tensor:
    """Move channels into blocks of an image."""
    block = node.attributes["blocksize"]
    if node.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, block)
    count, channels, height, width = x.shape
    parts = x.reshape(count, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(count, channels // block**2, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(node: OnnxNode, x: Tensor) -> Tensor:
    """Move blocks of an image into channels."""
    block = node.attributes["blocksize"]
    if node.get("mode", "DCR") == "CRD":
        return functional.pixel_unshuffle(x, block)
    count, channels, height, width = x.shape
    parts = x.reshape(count, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(count, channels * block**2, height // block, width // block)


@operator("ConstantOfShape")
def constant_of_shape(node: OnnxNode, sizes: Tensor) -> Tensor:
    """Return a tensor that is filled with one value."""
    value = node.get("value", torch.zeros(1))
    return value.reshape(()).expand(sizes.tolist())  # type: ignore[no-any-return]


@operator("Range")
def spread(_: OnnxNode, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Return evenly spaced numbers below a limit."""
    if start.is_floating_point():
        first, last, step = (value.to(torch.float64) for value in (start, limit, delta))  # in float32, one may be lost
        count = max(0, int(torch.ceil((last - first) / step)))
    else:
        count = len(range(int(start), int(limit), int(delta)))
    return start.reshape(()) + torch.arange(count).to(start.dtype) * delta.reshape(())


@operator("EyeLike")
def eye_like(node: OnnxNode, x: Tensor) -> Tensor:
    """Return a matrix with ones on a diagonal."""
    rows, columns = (torch.arange(count) for count in x.shape)
    dtype = x.dtype if node.get("dtype") is None else dtype_of(node.attributes["dtype"])
    return torch.eq(columns - rows[:, None], node.get("k", 0)).to(dtype)


@operator("Trilu")
def trilu(node: OnnxNode, x: Tensor, k: Tensor | None = None) -> Tensor:
    """Set the part of a matrix below or above a diagonal to zero."""
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


@operator("ReverseSequence")
def reverse_sequence(node: OnnxNode, x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse the first elements of each sequence of a batch."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    places, counts = _along(torch.arange(x.shape[time]), time, x), _along(lengths, batch, x)
    return torch.gather(x, time, torch.where(places < counts, counts - 1 - places, places).expand(x.shape))


def _along(values: Tensor, axis: int, x: Tensor) -> Tensor:
    """Return a vector shaped so that it broadcasts along an axis of a tensor."""
    sizes: Sequence[int] = [1] * (axis % x.dim()) + [-1] + [1] * (x.dim() - axis % x.dim() - 1)
    return values.reshape(sizes)


@operator("OneHot")
def one_hot(node: OnnxNode, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """Return the second of two values at each index, and the first elsewhere."""
    count, indices = int(depth), indices.to(torch.int64)
    axis = node.get("axis", -1) % (indices.dim() + 1)
    indices = torch.where(indices < 0, indices + count, indices).unsqueeze(axis)
    return torch.where(indices == _along(torch.arange(count), axis, indices), values[1], values[0])


@operator("Compress")
def compress(node: OnnxNode, x: Tensor, condition: Tensor) -> Tensor:
    """Keep slices along an axis, or elements, where a condition holds."""
    axis = node.get("axis")
    kept = torch.nonzero(condition).reshape(-1)
    return x.reshape(-1)[kept] if axis is None else x.index_select(axis, kept)


@operator("NonZero")
def nonzero(_: OnnxNode, x: Tensor) -> Tensor:
    """Return the indices of nonzero elements, a row for each axis."""
    return torch.nonzero(x).T


@operator("Unique")
def unique(node: OnnxNode, x: Tensor) -> tuple[Tensor, ...]:
    """Return distinct elements or slices, where they occur first, where each belongs, and how often they occur."""
    axis = node.get("axis")
    values, places, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    places, axis = places.reshape(-1), 0 if axis is None else axis
    positions = torch.arange(places.numel())
    first = torch.full(counts.shape, places.numel()).scatter_reduce(0, places, positions, "amin")
    if not node.get("sorted", 1):
        seen = torch.zeros(places.numel(), dtype=torch.int64).scatter(0, first, 1)
        places = (torch.cumsum(seen, 0) - 1)[first][places]
        first = torch.nonzero(seen).reshape(-1)
        source = x.reshape(-1) if node.get("axis") is None else x
        values, counts = source.index_select(axis, first), torch.bincount(places)
    return values, first, places, counts
