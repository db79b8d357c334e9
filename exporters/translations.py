"""Translations to ONNX of PyTorch operators that torch.onnx translates wrongly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

_BOOL, _INT64 = 9, 7
_FUSED_ATTENTION_OPSET = 23
"""First operator set with attention as one operator, which torch.onnx then writes."""


def _is_all_true(self: Any) -> Any:
    return op.Cast(op.ReduceMin(op.Cast(self, to=_INT64), keepdims=False), to=_BOOL)


def _is_any_true(self: Any) -> Any:
    return op.Cast(op.ReduceMax(op.Cast(self, to=_INT64), keepdims=False), to=_BOOL)


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Give zeros where the mask leaves nothing, as PyTorch does; torch.onnx gives the mean of all values."""
    if attn_mask is None:
        return aten_scaled_dot_product_attention(query, key, value, None, dropout_p, is_causal, scale, enable_gqa)
    last = op.Constant(value_ints=[-1])
    zero = op.CastLike(op.Constant(value_float=0.0), query)
    nothing = op.CastLike(op.Constant(value_float=float("-inf")), query)
    if attn_mask.dtype == _BOOL:
        seen = op.Cast(op.ReduceMax(op.Cast(attn_mask, to=_INT64), last, keepdims=True), to=_BOOL)
        attn_mask = op.Where(attn_mask, zero, nothing)
    else:
        seen = op.Greater(op.ReduceMax(attn_mask, last, keepdims=True), nothing)
    result = aten_scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    return op.Where(seen, result, zero)


def translations(opset: int | None) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translations by operator, for an ONNX operator set; None for the default one.

    Checks of values, as ``torch._check_tensor_all`` and transformers make them, use ``_is_all_true``.
    """
    table: dict[Callable[..., Any], Callable[..., Any]] = {
        torch.ops.aten._is_all_true.default: _is_all_true,
        torch.ops.aten._is_any_true.default: _is_any_true,
    }
    if opset is None or opset < _FUSED_ATTENTION_OPSET:
        table[torch.ops.aten.scaled_dot_product_attention.default] = _attention
    return table
