"""Sums and other reductions, products of matrices, and functions that are normalized along an axis."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

from deploy.onnx_graph.node import OnnxNode, operator
from deploy.onnx_graph.operators.shapes import numbers

Tensor = torch.Tensor
Axes = tuple[int, ...]


def _sum(x: Tensor, axes: Axes) -> Tensor:
    return torch.sum(x, axes, keepdim=True, dtype=x.dtype)


def _mean(x: Tensor, axes: Axes) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim=True)
    return torch.div(_sum(x, axes), math.prod(x.shape[axis] for axis in axes), rounding_mode="trunc")


def _product(x: Tensor, axes: Axes) -> Tensor:
    return functools.reduce(lambda value, axis: torch.prod(value, axis, keepdim=True, dtype=x.dtype), axes, x)


def _extreme(x: Tensor, axes: Axes, *, largest: bool) -> Tensor:
    if x.numel():
        return torch.amax(x, axes, keepdim=True) if largest else torch.amin(x, axes, keepdim=True)
    if x.dtype is torch.bool:
        bound: float | bool = not largest
    elif x.is_floating_point():
        bound = -math.inf if largest else math.inf
    else:
        bound = torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max
    return torch.full([1 if axis in axes else count for axis, count in enumerate(x.shape)], bound, dtype=x.dtype)


def _log_sum_exp(x: Tensor, axes: Axes) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=True)


def _real(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Compute integers in float64."""
    return lambda x: function(x) if x.is_floating_point() else function(x.to(torch.float64)).to(x.dtype)


_REDUCTIONS: dict[str, Callable[[Tensor, Axes], Tensor]] = {
    "ReduceL1": lambda x, axes: _sum(torch.abs(x), axes),
    "ReduceL2": lambda x, axes: _real(torch.sqrt)(_sum(x * x, axes)),
    "ReduceLogSum": lambda x, axes: _real(torch.log)(_sum(x, axes)),
    "ReduceLogSumExp": lambda x, axes: _real(lambda value: _log_sum_exp(value, axes))(x),
    "ReduceMax": functools.partial(_extreme, largest=True),
    "ReduceMean": _mean,
    "ReduceMin": functools.partial(_extreme, largest=False),
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes: _sum(x * x, axes),
}


@operator(*_REDUCTIONS)
def reduction(node: OnnxNode, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Reduce axes: those that are named, else all, or with ``noop_with_empty_axes`` none."""
    function = _REDUCTIONS[node.operator]
    named = tuple(axis % x.dim() for axis in numbers(node, "axes", axes) or ())
    if not named and (node.get("noop_with_empty_axes", 0) or not x.dim()):
        return function(x.unsqueeze(-1), (x.dim(),)).squeeze(-1)
    named = named or tuple(range(x.dim()))
    result = function(x, named)
    return result if node.get("keepdims", 1) else result.squeeze(named)


@operator("CumSum", "CumProd")
def cumulative(node: OnnxNode, x: Tensor, axis: Tensor) -> Tensor:
    """Return running sums or products, from either end, of the elements up to each one or before it."""
    along = int(axis)
    x = x.flip(along) if node.get("reverse", 0) else x
    function, first = (torch.cumsum, 0) if node.operator == "CumSum" else (torch.cumprod, 1)
    if node.get("exclusive", 0):
        start = torch.full_like(x.narrow(along, 0, 1), first)
        x = torch.cat([start, x.narrow(along, 0, x.shape[along] - 1)], along)
    result = function(x, along, dtype=x.dtype)
    return result.flip(along) if node.get("reverse", 0) else result


@operator("MatMul")
def matmul(_: OnnxNode, x: Tensor, y: Tensor) -> Tensor:
    """Multiply matrices."""
    return torch.matmul(x, y)


@operator("Gemm")
def gemm(node: OnnxNode, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return alpha x y + beta bias."""
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    result = torch.matmul(x.T if node.get("transA", 0) else x, y.T if node.get("transB", 0) else y)
    result = result if alpha == 1 else result * alpha
    if bias is not None and beta != 0:
        result = result + (bias if beta == 1 else bias * beta)
    return result.to(x.dtype)


@operator("MatMulInteger")
def matmul_integer(
    _: OnnxNode, x: Tensor, y: Tensor, x_zero: Tensor | None = None, y_zero: Tensor | None = None
) -> Tensor:
    """Multiply matrices of 8-bit integers; a zero point is one number, or one for each row of x or column of y."""
    left, right = x.to(torch.int32), y.to(torch.int32)
    if x_zero is not None:
        left = left - (x_zero.unsqueeze(-1) if x_zero.dim() == 1 and x_zero.numel() > 1 else x_zero).to(torch.int32)
    if y_zero is not None:
        right = right - y_zero.to(torch.int32)
    return torch.matmul(left, right)


@operator("Einsum")
def einsum(node: OnnxNode, *inputs: Tensor) -> Tensor:
    """Return an Einstein sum."""
    return torch.einsum(node.attributes["equation"], *inputs)


def _along_axis(node: OnnxNode, x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Call a function along an axis: before operator set 13, along all from that one on."""
    if node.version >= 13:
        return function(x, node.get("axis", -1))
    axis = node.get("axis", 1)
    return function(x.reshape(*x.shape[:axis], math.prod(x.shape[axis:])), -1).reshape(x.shape)


@operator("Softmax")
def softmax(node: OnnxNode, x: Tensor) -> Tensor:
    """Return exponentials divided by their sum."""
    return _along_axis(node, x, torch.softmax)


@operator("LogSoftmax")
def log_softmax(node: OnnxNode, x: Tensor) -> Tensor:
    """Return the logarithm of the softmax."""
    return _along_axis(node, x, torch.log_softmax)


@operator("Hardmax")
def hardmax(node: OnnxNode, x: Tensor) -> Tensor:
    """Return 1 for the first largest element, and 0 for others."""
    return _along_axis(
        node, x, lambda value, axis: torch.zeros_like(value).scatter(axis, value.argmax(axis, keepdim=True), 1.0)
    )


@operator("Det")
def det(_: OnnxNode, x: Tensor) -> Tensor:
    """Return determinants."""
    return torch.linalg.det(x)  # type: ignore[no-any-return]
