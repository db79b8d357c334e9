"""A stable top-k as one operator of PyTorch: it runs the ONNX operator TopK, and is exported as one."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor


@torch.library.custom_op("deploy::topk", mutates_args=())
def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """Return the largest values and their indices, as `torch.topk`, but of equal values the lower index first.

    ONNX's ``TopK`` is defined so; PyTorch's order of equal values is not defined. It is one operator, since it is one
    choice.
    """
    values, indices = torch.sort(x, dim=dim, descending=largest, stable=True)
    return values.narrow(dim, 0, k).clone(), indices.narrow(dim, 0, k).clone()


@topk.register_fake
def _(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    shape = list(x.shape)
    shape[dim] = k
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def _keep_indices(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.shape, ctx.dim = inputs[0].shape, inputs[2]


def _gradient(ctx: Any, values: Tensor, indices: Tensor) -> tuple[Tensor, None, None, None, None]:
    (chosen,) = ctx.saved_tensors
    return values.new_zeros(ctx.shape).scatter(ctx.dim, chosen, values), None, None, None, None


topk.register_autograd(_gradient, setup_context=_keep_indices)
