"""Operators of ONNX Runtime, which its own optimizer and the exporters of transformers write."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from deploy.core.errors import ModelError
from deploy.onnx_graph.node import OnnxNode, operator
from deploy.onnx_graph.operators.attention import additive, heads, merged, rotated
from deploy.onnx_graph.operators.convolution import convolution
from deploy.onnx_graph.operators.quantized import MICROSOFT

Tensor = torch.Tensor

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "": lambda x: x,
    "Clip": torch.clamp,
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0, 1),
    "LeakyRelu": lambda x, alpha=0.01: functional.leaky_relu(x, alpha),
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
}


def _activated(node: OnnxNode, x: Tensor, values: Sequence[float]) -> Tensor:
    name = node.get("activation", "")
    if name not in _ACTIVATIONS:
        raise ModelError(f"the node {node.name or node.outputs[0]!r} ends with {name}, which has no evaluation.")
    return _ACTIVATIONS[name](x, *values)


@operator("FusedConv", domain=MICROSOFT)
def fused_convolution(
    node: OnnxNode, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """Convolve, add a tensor, and activate."""
    result = convolution(node, x, weight, bias)
    return _activated(node, result if added is None else result + added, node.get("activation_params", ()))


@operator("FusedGemm", domain=MICROSOFT)
def fused_gemm(node: OnnxNode, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Return the activation of alpha * a * b + beta * c."""
    result = node.get("alpha", 1.0) * torch.matmul(
        a.T if node.get("transA", 0) else a, b.T if node.get("transB", 0) else b
    )
    result = result if c is None else result + node.get("beta", 1.0) * c
    stated = (node.get(f"activation_{name}") for name in ("alpha", "beta", "gamma"))
    return _activated(node, result, [value for value in stated if value is not None])


@operator("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_product(node: OnnxNode, a: Tensor, b: Tensor) -> Tensor:
    """Return alpha times the product of matrices that are transposed before."""

    def turned(x: Tensor, side: str) -> Tensor:
        x = x.movedim(0, -2) if node.get(f"transBatch{side}", 0) else x
        return x.transpose(-1, -2) if node.get(f"trans{side}", 0) and x.dim() > 1 else x

    result: Tensor = node.get("alpha", 1.0) * torch.matmul(turned(a, "A"), turned(b, "B"))
    return result


@operator("Gelu", "BiasGelu", domain=MICROSOFT)
def gelu(_: OnnxNode, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x * Phi(x)."""
    return functional.gelu(x if bias is None else x + bias)


@operator("FastGelu", domain=MICROSOFT)
def fast_gelu(_: OnnxNode, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the approximation of GELU by tanh."""
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=MICROSOFT)
def quick_gelu(node: OnnxNode, x: Tensor) -> Tensor:
    """Return x * sigmoid(alpha * x)."""
    return x * torch.sigmoid(node.get("alpha", 1.702) * x)


@operator("Inverse", domain=MICROSOFT)
def inverse(_: OnnxNode, x: Tensor) -> Tensor:
    """Return the inverses of matrices."""
    result: Tensor = torch.linalg.inv(x)
    return result


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    node: OnnxNode, x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Normalize the last axis of a sum; also return the means, the inverse deviations and the sum."""
    total = x + skip if bias is None else x + skip + bias
    size = [total.shape[-1]]
    return *torch.native_layer_norm(total, size, scale, shift, node.get("epsilon", 1e-12)), total


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_norm(
    node: OnnxNode, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """Divide the last axis of a sum by the root of its mean square; the fourth output is the sum."""
    total = x + skip if bias is None else x + skip + bias
    result = functional.rms_norm(total, [total.shape[-1]], scale, node.get("epsilon", 1e-5))
    return result, None, None, total


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(
    node: OnnxNode, words: Tensor, segments: Tensor | None, table: Tensor, places: Tensor, *rest: Tensor | None
) -> tuple[Tensor, ...]:
    """Add the embeddings of words, positions and segments, and normalize; also return the lengths and the sum."""
    segment_table, scale, shift, mask, positions = (*rest, None, None)[:5]
    total = table[words.to(torch.int64)]
    total = total + (places[: words.shape[1]] if positions is None else places[positions.to(torch.int64)])
    if segments is not None and segment_table is not None:
        total = total + segment_table[segments.to(torch.int64)]
    result = functional.layer_norm(total, [total.shape[-1]], scale, shift, node.get("epsilon", 1e-12))
    lengths = torch.zeros(words.shape[0]) if mask is None else mask.sum(1)
    return result, lengths.to(torch.int32), total


def _mask(node: OnnxNode, mask: Tensor | None, queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    """Return what is added to the products.

    The mask is the length of each sample, [batch], or 1 for each key that may be used, [batch, keys] or
    [batch, queries, keys].
    """
    bias = torch.zeros((1, 1, queries, keys), dtype=dtype)
    if node.get("unidirectional", 0):
        bias = bias + additive(torch.arange(keys) <= torch.arange(queries).unsqueeze(1) + keys - queries, dtype)
    if mask is None:
        return bias
    if mask.dim() == 1:
        allowed = (torch.arange(keys) < mask.unsqueeze(1)).reshape(-1, 1, 1, keys)
    elif mask.dim() in (2, 3):
        allowed = (mask != 0).reshape(mask.shape[0], 1, -1, keys)
    else:
        raise ModelError(f"the node {node.name or node.outputs[0]!r} has a mask of 4 axes, which has no evaluation.")
    return bias + additive(allowed, dtype, node.get("mask_filter_value", -10000.0))


def _attended(node: OnnxNode, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    scale = node.get("scale", 0.0) or 1 / math.sqrt(query.shape[3])
    products = torch.matmul(query, key.transpose(2, 3)) * scale + bias
    return merged(torch.matmul(torch.softmax(products, -1), value))


@operator("Attention", domain=MICROSOFT)
def packed_attention(
    node: OnnxNode,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    *rest: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Attend with queries, keys and values from one product; also return keys and values, [2, B, heads, T, size]."""
    if any(value is not None for value in rest) or node.get("do_rotary", 0):
        raise ModelError(f"the node {node.name or node.outputs[0]!r} is a form of Attention that has no evaluation.")
    count = node.get("num_heads")
    sizes = node.get("qkv_hidden_sizes") or (weight.shape[1] // 3,) * 3
    whole = torch.matmul(x, weight)
    whole = whole if bias is None else whole + bias
    query, key, value = (heads(part, count) for part in torch.split(whole, list(sizes), -1))
    if past is not None:
        key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
    total = _mask(node, mask, query.shape[2], key.shape[2], x.dtype)
    total = total if added is None else total + added
    present = torch.stack([key, value]) if node.uses(1) else x
    return _attended(node, query, key, value, total), present


@operator("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    node: OnnxNode, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, *rest: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend; the inputs may be packed, [B, S, heads, 3 or 2, size]; also return the keys and values."""
    bias, mask, added, past_key, past_value = (*rest, *(None,) * 5)[:5]
    if any(part is not None for part in rest[5:]):
        raise ModelError(f"the node {node.name or node.outputs[0]!r} has a shared cache, which has no evaluation.")
    count = node.get("num_heads")
    if query.dim() == 5:
        query, key, value = (part.flatten(2) for part in query.unbind(3))
    elif key is not None and key.dim() == 5:
        key, value = (part.flatten(2) for part in key.unbind(3))
    assert key is not None
    assert value is not None
    if bias is not None:
        width = query.shape[2]
        query, key = query + bias[:width], key if key.dim() == 4 else key + bias[width : 2 * width]
        value = value if value.dim() == 4 else value + bias[2 * width :]
    q, k, v = (part if part.dim() == 4 else heads(part, count) for part in (query, key, value))
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    total = _mask(node, mask, q.shape[2], k.shape[2], q.dtype)
    total = total if added is None else total + added
    return _attended(node, q, k, v, total), k, v


@operator("RotaryEmbedding", domain=MICROSOFT)
def rotary(node: OnnxNode, x: Tensor, places: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate by the angles of positions, [batch, length] or the first one of a row, [1]."""
    flat = x.dim() == 3
    size = node.get("rotary_embedding_dim", 0)
    count = node.get("num_heads", 0) or (0 if size else x.shape[-1] // (2 * cosine.shape[1]))
    work = heads(x, count) if flat else x
    if places.numel() == 1 and work.shape[2] > 1:
        places = (places.reshape(1, 1) + torch.arange(work.shape[2])).expand(x.shape[0], -1)
    cosine, sine = (table[places].unsqueeze(1) for table in (cosine, sine))
    result = rotated(work, cosine, sine, size or work.shape[-1], bool(node.get("interleaved", 0)))
    return merged(result) if flat else result
