"""Quantized tensors and operators on them.

Products of integers are computed in float64, which is exact to 2 ** 53; a run in float32 rounds sums above 2 ** 24.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from deploy.onnx_graph.constants import dtype_of
from deploy.onnx_graph.node import OnnxNode, operator
from deploy.onnx_graph.operators.convolution import convolution
from deploy.onnx_graph.operators.pooling import average

Tensor = torch.Tensor

MICROSOFT = "com.microsoft"


def _both(*names: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        return operator(*names, domain=MICROSOFT)(operator(*names)(function))

    return register


def _along(values: Tensor, x: Tensor, axis: int, block: int = 0) -> Tensor:
    """Return scales or zero points in a shape that broadcasts to ``x``."""
    if values.numel() == 1:
        return values.reshape(())
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return values.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())]) if values.dim() == 1 else values


def quantized(x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return x / scale, rounded half to even, plus the zero point, limited to the range of ``dtype``."""
    limits = torch.iinfo(dtype)
    steps = torch.round(x.to(scale.dtype) / scale)
    if zero is not None:
        steps = steps + zero.to(scale.dtype)
    return steps.clamp(limits.min, limits.max).to(torch.int32).to(dtype)


def dequantized(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Return (x - zero point) * scale."""
    steps = x.to(torch.int32)
    return (steps if zero is None else steps - zero.to(torch.int32)).to(scale.dtype) * scale


def _centered(x: Tensor, zero: Tensor | None) -> Tensor:
    """Return integers less their zero point, as float64."""
    steps = x.to(torch.int32)
    return (steps if zero is None else steps - zero.to(torch.int32)).to(torch.float64)


@_both("QuantizeLinear")
def quantize(node: OnnxNode, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Quantize a tensor, its slices along an axis, or its blocks."""
    axis, block = node.get("axis", 1), node.get("block_size", 0)
    stated = node.get("output_dtype", 0)
    dtype = zero.dtype if zero is not None else dtype_of(stated) if stated else torch.uint8
    points = None if zero is None else _along(zero.to(torch.int32), x, axis, block)
    return quantized(x, _along(scale, x, axis, block), points, dtype)


@_both("DequantizeLinear")
def dequantize(node: OnnxNode, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Return the numbers that a quantized tensor stands for."""
    axis, block = node.get("axis", 1), node.get("block_size", 0)
    points = None if zero is None else _along(zero.to(torch.int32), x, axis, block)
    result = dequantized(x, _along(scale, x, axis, block), points)
    stated = node.get("output_dtype", 0)
    return result.to(dtype_of(stated)) if stated else result


@operator("DynamicQuantizeLinear")
def quantize_by_range(_: OnnxNode, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize to uint8 by the range of the elements, which includes 0."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = quantized(-low, scale, None, torch.uint8)
    return quantized(x, scale, zero, torch.uint8), scale, zero


def _product(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    """Return the matrix product of integers as float64; zero points are those of rows of a and columns of b."""
    if a_zero is not None and a_zero.dim() == 1 and a_zero.numel() > 1:
        a_zero = a_zero.unsqueeze(1)
    return torch.matmul(_centered(a, a_zero), _centered(b, b_zero))


@operator("QLinearMatMul")
def quantized_product(
    _: OnnxNode, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, *y: Tensor
) -> Tensor:
    """Return the quantized matrix product."""
    y_scale, y_zero = y
    if a_scale.dim() == 1 and a_scale.numel() > 1:
        a_scale = a_scale.unsqueeze(1)
    real = _product(a, b, a_zero, b_zero).to(y_scale.dtype) * (a_scale * b_scale)
    return quantized(real, y_scale, y_zero, y_zero.dtype)


def _convolved(node: OnnxNode, x: Tensor, x_zero: Tensor | None, weight: Tensor, zero: Tensor | None) -> Tensor:
    points = None if zero is None else _along(zero.to(torch.int32), weight, 0)
    result: Tensor = convolution(node, _centered(x, x_zero), _centered(weight, points))
    return result


@operator("ConvInteger")
def integer_convolution(
    node: OnnxNode, x: Tensor, weight: Tensor, x_zero: Tensor | None = None, zero: Tensor | None = None
) -> Tensor:
    """Convolve integers; the result is int32."""
    return _convolved(node, x, x_zero, weight, zero).to(torch.int32)


@operator("QLinearConv")
def quantized_convolution(
    node: OnnxNode,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor,
    *rest: Tensor,
) -> Tensor:
    """Convolve quantized tensors; the bias is int32 in units of the product of both scales."""
    y_scale, y_zero, *bias = rest
    steps = _convolved(node, x, x_zero, weight, zero)
    if bias:
        steps = steps + _along(bias[0].to(torch.float64), steps, 1)
    real = steps.to(y_scale.dtype) * (x_scale.reshape(()) * _along(scale, steps, 1))
    return quantized(real, y_scale, y_zero, y_zero.dtype)


@operator("QGemm", domain=MICROSOFT)
def quantized_gemm(
    node: OnnxNode, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, *rest: Any
) -> Tensor:
    """Return alpha * a * b + c: float32 without a scale of the result."""
    c, y_scale, y_zero = (*rest, None, None, None)[:3]
    first, second = _centered(a, a_zero), _centered(b, b_zero if not node.get("transB", 0) else _column(b_zero))
    first = first.T if node.get("transA", 0) else first
    second = second.T if node.get("transB", 0) else second
    steps = torch.matmul(first, second)
    if c is not None:
        steps = steps + c.to(torch.float64)
    real = steps.to(a_scale.dtype) * (node.get("alpha", 1.0) * a_scale * b_scale)
    return real if y_scale is None else quantized(real, y_scale, y_zero, y_zero.dtype)


def _column(values: Tensor) -> Tensor:
    return values.unsqueeze(1) if values.dim() == 1 and values.numel() > 1 else values


@operator("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def quantized_pair(
    node: OnnxNode, a: Tensor, a_scale: Tensor, a_zero: Tensor | None, b: Tensor, b_scale: Tensor, *rest: Tensor | None
) -> Tensor:
    """Add or multiply quantized tensors."""
    b_zero, y_scale, y_zero = (*rest, None)[:3]
    assert y_scale is not None
    first, second = dequantized(a, a_scale, a_zero), dequantized(b, b_scale, b_zero)
    real = first + second if node.operator == "QLinearAdd" else first * second
    return quantized(real, y_scale, y_zero, a.dtype)


@operator("QLinearConcat", domain=MICROSOFT)
def quantized_concat(node: OnnxNode, y_scale: Tensor, y_zero: Tensor, *parts: Tensor) -> Tensor:
    """Concatenate quantized tensors, given as tensor, scale and zero point."""
    triples = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    real = torch.cat([dequantized(x, scale, zero) for x, scale, zero in triples], dim=node.get("axis"))
    return quantized(real, y_scale, y_zero, y_zero.dtype)


_SINGLE: dict[str, Callable[[OnnxNode, Tensor], Tensor]] = {
    "QLinearAveragePool": average,
    "QLinearGlobalAveragePool": lambda _, x: x.mean(list(range(2, x.dim())), keepdim=True),
    "QLinearLeakyRelu": lambda node, x: functional.leaky_relu(x, node.get("alpha", 0.01)),
    "QLinearSigmoid": lambda _, x: torch.sigmoid(x),
}


@operator(*_SINGLE, domain=MICROSOFT)
def quantized_single(
    node: OnnxNode, x: Tensor, scale: Tensor, zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None
) -> Tensor:
    """Pool or activate a quantized tensor."""
    last = bool(node.get("channels_last", 0))
    real = dequantized(x, scale, zero)
    result = _SINGLE[node.operator](node, real.movedim(-1, 1) if last else real)
    return quantized(result.movedim(1, -1) if last else result, y_scale, y_zero, x.dtype)
