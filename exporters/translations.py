"""Translations to ONNX of PyTorch operators that torch.onnx does not translate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op
from onnxscript.onnx_types import BOOL

_BOOL, _INT64 = 9, 7


def _is_all_true(self: BOOL) -> BOOL:
    return op.Cast(op.ReduceMin(op.Cast(self, to=_INT64), keepdims=False), to=_BOOL)


def _is_any_true(self: BOOL) -> BOOL:
    return op.Cast(op.ReduceMax(op.Cast(self, to=_INT64), keepdims=False), to=_BOOL)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten._is_all_true.default: _is_all_true,
    torch.ops.aten._is_any_true.default: _is_any_true,
}
"""By operator. Checks of values, as ``torch._check_tensor_all`` and transformers make them, use these two."""
