"""Elements by their index, and the indices of the largest elements."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from deploy.onnx_graph.node import OnnxNode, operator
from deploy.onnx_graph.topk import topk

Tensor = torch.Tensor

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positive(indices: Tensor, count: int) -> Tensor:
    """Return indices counted from the start: the tensor itself if they are, since it may be an input of the model."""
    if indices.numel() == 0 or int(indices.min()) >= 0:
        return indices
    return torch.where(indices < 0, indices + count, indices)


@operator("Gather")
def gather(node: OnnxNode, x: Tensor, indices: Tensor) -> Tensor:
    """Return slices along an axis by their index."""
    axis = node.get("axis", 0) % x.dim()
    indices = _positive(indices, x.shape[axis])
    if axis == 0 and x.dim() == 2 and x.is_floating_point():
        return functional.embedding(indices, x)
    if indices.dim() == 1:
        return x.index_select(axis, indices)
    sizes = x.shape[:axis] + indices.shape + x.shape[axis + 1 :]
    return x.index_select(axis, indices.reshape(-1)).reshape(sizes)


@operator("GatherElements")
def gather_elements(node: OnnxNode, x: Tensor, indices: Tensor) -> Tensor:
    """Return elements by their index along an axis."""
    axis = node.get("axis", 0)
    return torch.gather(x, axis, _positive(indices, x.shape[axis]).to(torch.int64))


@operator("GatherND")
def gather_nd(node: OnnxNode, x: Tensor, indices: Tensor) -> Tensor:
    """Return slices by their indices in several axes, after axes that both tensors have."""
    shared = node.get("batch_dims", 0)
    batch = x.shape[:shared]
    places = indices.reshape(math.prod(batch), *indices.shape[shared:])
    rows = torch.arange(len(places)).reshape(-1, *[1] * (places.dim() - 2))
    index = (rows, *places.unbind(-1))
    chosen = x.reshape(len(places), *x.shape[shared:])[index]
    return chosen.reshape(batch + chosen.shape[1:])


@operator("ScatterElements", "Scatter")
def scatter_elements(node: OnnxNode, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Return a tensor with elements replaced, or combined with others, by their index along an axis."""
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")
    places = _positive(indices, x.shape[axis]).to(torch.int64)
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])


@operator("ScatterND")
def scatter_nd(node: OnnxNode, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Return a tensor with slices replaced, or combined with others, by their indices in several axes."""
    reduction, depth = node.get("reduction", "none"), indices.shape[-1]
    if reduction == "none":
        return x.index_put(indices.unbind(-1), updates)
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for count, index in zip(x.shape, indices.unbind(-1), strict=False):
        place = place * count + index % count
    each = math.prod(x.shape[depth:])
    flat, changes = x.reshape(math.prod(x.shape[:depth]), each), updates.reshape(place.numel(), each)
    result = flat.scatter_reduce(0, place.reshape(-1, 1).expand_as(changes), changes, _REDUCTIONS[reduction])
    return result.reshape(x.shape)


@operator("TensorScatter")
def tensor_scatter(node: OnnxNode, x: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
    """Return a cache with slices replaced from a position on that each sample of the batch has."""
    axis, batch = node.get("axis", -2) % x.dim(), len(x)
    first = torch.zeros(batch, dtype=torch.int64) if starts is None else starts
    places = first[:, None] + torch.arange(update.shape[axis])
    if node.get("mode", "linear") == "circular":
        places = places % x.shape[axis]
    index = (torch.arange(batch)[:, None], places)
    return x.movedim(axis, 1).index_put(index, update.movedim(axis, 1)).movedim(1, axis)


@operator("ArgMax", "ArgMin")
def largest(node: OnnxNode, x: Tensor) -> Tensor:
    """Return the index of the largest or the smallest element along an axis, the first one or the last one."""
    axis, function = node.get("axis", 0), torch.argmax if node.operator == "ArgMax" else torch.argmin
    index = function(x, axis, keepdim=True)
    if node.get("select_last_index", 0):
        above = torch.nan_to_num(x - x.gather(axis, index))  # a comparison would be a second choice; inf - inf is 0
        equal = torch.logical_not(above).transpose(axis, -1)
        last = torch.amax(equal * torch.arange(x.shape[axis]), -1, keepdim=True).transpose(axis, -1)
        index = torch.maximum(index, last)
    return index if node.get("keepdims", 1) else index.squeeze(axis)


@operator("TopK")
def top_k(node: OnnxNode, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the largest or the smallest elements along an axis and their indices; equal ones by their index."""
    count = node.attributes["k"] if k is None else int(k)
    values, indices = topk(x, count, node.get("axis", -1), bool(node.get("largest", 1)), bool(node.get("sorted", 1)))
    return values, indices
