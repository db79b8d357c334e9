"""Products of half-precision operands on CPUs that have no kernels for them.

Without AVX-512, PyTorch multiplies matrices in float16 and bfloat16 one value at a time, which takes many times as long
as in float32. Here the operands are widened, multiplied in float32, and the result is rounded once. That is what
half-precision kernels do, on GPUs and with AVX-512: they add in float32. Only the order of the sums differs. In
attention the probabilities are rounded too, as in PyTorch's kernel.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from typing import Any

import torch

Product = Callable[..., Any]
"""Called with an operator and its operands, in place of the operator."""

_HALVES = (torch.float16, torch.bfloat16)
_PLAIN = ("convolution", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "addbmm", "dot")
_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


def has_kernels() -> bool:
    """Return whether PyTorch has fast kernels for products in half precision on this machine's CPU."""
    return platform.machine() not in ("x86_64", "AMD64") or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def product_of(name: str, dtype: torch.dtype) -> Product | None:
    """Return what computes an operator on operands of a type; None if the operator itself does."""
    product = _widened if name in _PLAIN else _attention if name == _ATTENTION else None
    return product if product is not None and dtype in _HALVES and not has_kernels() else None


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in _HALVES else value


def _on_cpu(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or value.device.type == "cpu"


def _widened(function: Callable[..., torch.Tensor], *operands: Any, **options: Any) -> torch.Tensor:
    halves = {value.dtype for value in operands if isinstance(value, torch.Tensor)}
    if len(halves) != 1 or not all(map(_on_cpu, operands)):
        return function(*operands, **options)
    result = function(*map(_wide, operands), **{name: _wide(value) for name, value in options.items()})
    return result.to(halves.pop())


def _attention(
    function: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> Any:
    if dropout_p or query.shape[:-2] != key.shape[:-2]:
        options: dict[str, Any] = {"attn_mask": attn_mask, "scale": scale}
        return function(query, key, value, dropout_p, is_causal, **options)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = _wide(query) @ _wide(key).transpose(-2, -1) * scale
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + _wide(attn_mask)
    nowhere = (scores == -math.inf).all(-1, keepdim=True)  # a query that may look at nothing: 0, as in the kernel
    chances = torch.softmax(scores, -1).masked_fill(nowhere, 0.0).to(query.dtype)
    return (_wide(chances) @ _wide(value)).to(query.dtype), torch.logsumexp(scores, -1)
