"""Attention and the rotation of positions."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from deploy.onnx_graph.constants import dtype_of
from deploy.onnx_graph.node import OnnxNode, operator

Tensor = torch.Tensor

_LOWEST = -math.inf


def heads(x: Tensor, count: int) -> Tensor:
    """Return [batch, length, heads * size] as [batch, heads, length, size]."""
    return x.reshape(*x.shape[:2], count, x.shape[2] // count).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    """Return [batch, heads, length, size] as [batch, length, heads * size]."""
    return x.transpose(1, 2).flatten(2)


def additive(allowed: Tensor, dtype: torch.dtype, masked: float = _LOWEST) -> Tensor:
    """Return 0 where attention is allowed, else ``masked``."""
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, masked)


def _window(node: OnnxNode, queries: int, keys: int, offset: Tensor) -> Tensor | None:
    """Return which keys the causal order and the sliding window allow, None if all.

    ``offset`` is the position of the first query among the keys, [1] or [batch].
    """
    place = torch.arange(queries).unsqueeze(1) + offset.reshape(-1, 1, 1, 1)
    ahead = torch.arange(keys) - place
    left, right = node.get("left_window_size", -1), node.get("right_window_size", -1)
    allowed = None
    if node.get("is_causal", 0):
        right = 0
    if right >= 0:
        allowed = ahead <= right
    if left >= 0:
        allowed = (ahead >= -left) if allowed is None else allowed & (ahead >= -left)
    return allowed


@operator("Attention")
def attention(
    node: OnnxNode,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the result, the keys and values with those of the past, and the products that the node asks for.

    A query that no key may answer results in 0.
    """
    flat = query.dim() == 3
    if flat:
        query = heads(query, node.get("q_num_heads"))
        key, value = (heads(part, node.get("kv_num_heads")) for part in (key, value))
    offset = torch.zeros(1, dtype=torch.int64)
    if past_key is not None and past_value is not None:
        offset = offset + past_key.shape[2]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    elif lengths is not None:
        offset = lengths.to(torch.int64) - query.shape[2]
    present_key, present_value = key, value
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)

    bias = torch.zeros((query.shape[2], key.shape[2]), dtype=query.dtype)
    if mask is not None:
        missing = key.shape[2] - mask.shape[-1]
        if mask.dtype == torch.bool:
            mask = additive(mask, query.dtype)
        bias = bias + functional.pad(mask, (0, missing), value=_LOWEST)
    allowed = _window(node, query.shape[2], key.shape[2], offset)
    if allowed is not None:
        bias = bias + additive(allowed, query.dtype)
    if lengths is not None:
        bias = bias + additive(torch.arange(key.shape[2]) < lengths.reshape(-1, 1, 1, 1), query.dtype)

    scale = math.sqrt(node.get("scale", 1 / math.sqrt(query.shape[3])))
    products = torch.matmul(query * scale, (key * scale).transpose(2, 3))
    softcap, mode = node.get("softcap", 0.0), node.get("qk_matmul_output_mode", 0)
    capped = softcap * torch.tanh(products / softcap) if softcap > 0 else products
    biased = capped + bias
    precision = node.get("softmax_precision", 0)
    dead = (bias == _LOWEST).all(-1, keepdim=True)
    scores = biased.to(dtype_of(precision)) if precision else biased
    weights = torch.softmax(scores, -1).to(query.dtype).masked_fill(dead, 0.0)
    result = torch.matmul(weights, value)
    shown = (products, capped, biased, weights)[mode]
    return merged(result) if flat else result, present_key, present_value, shown


@operator("RotaryEmbedding")
def rotary(node: OnnxNode, x: Tensor, cosine: Tensor, sine: Tensor, places: Tensor | None = None) -> Tensor:
    """Rotate pairs of elements by the angles of their positions."""
    flat = x.dim() == 3
    work = heads(x, node.get("num_heads")) if flat else x
    size = node.get("rotary_embedding_dim", 0) or work.shape[-1]
    if places is not None:
        cosine, sine = cosine[places], sine[places]
    result = rotated(work, cosine.unsqueeze(1), sine.unsqueeze(1), size, bool(node.get("interleaved", 0)))
    return merged(result) if flat else result


def rotated(x: Tensor, cosine: Tensor, sine: Tensor, size: int, interleaved: bool) -> Tensor:
    """Rotate the first ``size`` elements of the last axis; the angles have half as many."""
    part, rest = x[..., :size], x[..., size:]
    first, second = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    real, imaginary = cosine * first - sine * second, sine * first + cosine * second
    turned = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    return torch.cat([turned, rest], -1)
