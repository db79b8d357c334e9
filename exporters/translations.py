"""Translations to ONNX of PyTorch operators that torch.onnx translates wrongly or not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op
from onnxscript import opset23
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

from deploy.onnx_graph.topk import topk
from deploy.tasks import operators
from deploy.tasks.suppression import as_float32, kept_by_class
from exporters.suppression import greedy

_BOOL, _INT64 = 9, 7
_FUSED_OPSET = 23
"""First operator set with attention as one operator."""


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
    *,
    fused: bool,
) -> Any:
    """Give zeros where the mask leaves nothing, as PyTorch does; torch.onnx gives the mean of all values."""
    last = op.Constant(value_ints=[-1])
    zero = op.CastLike(op.Constant(value_float=0.0), query)
    nothing = op.CastLike(op.Constant(value_float=float("-inf")), query)
    seen = None
    if attn_mask is not None and attn_mask.dtype == _BOOL:
        seen = op.Cast(op.ReduceMax(op.Cast(attn_mask, to=_INT64), last, keepdims=True), to=_BOOL)
        attn_mask = op.Where(attn_mask, zero, nothing)
    elif attn_mask is not None:
        seen = op.Greater(op.ReduceMax(attn_mask, last, keepdims=True), nothing)
    if fused and seen is None and not dropout_p:  # ONNX Runtime refuses a mask that it would have to broadcast
        result, *_ = opset23.Attention(query, key, value, scale=scale, is_causal=is_causal)
    else:
        result = aten_scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        )
    return result if seen is None else op.Where(seen, result, zero)


def _topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return op.TopK(x, op.Constant(value_ints=[k]), axis=dim, largest=largest, sorted=sorted)


def _quotient(x: Any, divisor: int) -> Any:
    return op.Div(x, op.Constant(value_int=divisor))


def _kept_by_class(boxes: Any, labels: Any, valid: Any, classes: int, iou_threshold: float) -> Any:
    """Select boxes by ``NonMaxSuppression``; falling numbers stand for the scores, so that their order is kept."""
    count = valid.shape[1]
    most = op.Constant(value_ints=[count])
    order = op.Constant(value_floats=[float(count - index) for index in range(count)])
    names = op.Reshape(op.Constant(value_ints=list(range(classes))), op.Constant(value_ints=[1, classes, 1]))
    axis = op.Constant(value_ints=[1])
    own = op.And(op.Equal(op.Unsqueeze(labels, axis), names), op.Unsqueeze(valid, axis))
    scores = op.Where(own, order, op.Constant(value_float=0.0))  # n x classes x k
    threshold = op.Constant(value_floats=[as_float32(iou_threshold)])
    selected = op.NonMaxSuppression(boxes, scores, most, threshold, op.Constant(value_floats=[0.5]))
    places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    kept = op.Expand(op.Cast(op.Constant(value_int=1), to=_BOOL), op.Shape(selected, start=0, end=1))
    return op.ScatterND(op.And(valid, op.Not(valid)), places, kept)


def translations(opset: int | None) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translations by operator, for an ONNX operator set; None for the default one.

    Checks of values, as ``torch._check_tensor_all`` and transformers make them, use ``_is_all_true``.
    """
    fused = opset is not None and opset >= _FUSED_OPSET
    return {
        torch.ops.aten._is_all_true.default: _is_all_true,
        torch.ops.aten._is_any_true.default: _is_any_true,
        torch.ops.aten.scaled_dot_product_attention.default: functools.partial(_attention, fused=fused),
        topk._opoverload: _topk,
        operators.greedy._opoverload: greedy,
        kept_by_class._opoverload: _kept_by_class,
        operators.quotient._opoverload: _quotient,
    }
