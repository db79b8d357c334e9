"""Arithmetic, comparisons and functions of single elements."""

from __future__ import annotations

import functools
import operator as op
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from deploy.core.errors import ModelError
from deploy.onnx_graph.constants import dtype_of
from deploy.onnx_graph.node import Compute, OnnxNode, operator

Tensor = torch.Tensor

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # PyTorch stores them, but computes little with them

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": lambda x: functional.softplus(x, threshold=40),  # beyond it, the linear function is exact in float64
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": op.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": op.mul,
    "Or": torch.logical_or,
    "Sub": op.sub,
    "Xor": torch.logical_xor,
}


def _aligned(node: OnnxNode, x: Tensor, y: Tensor) -> Tensor:
    """Return ``y`` so that it broadcasts to ``x``: before operator set 7, an attribute names its first axis."""
    axis = node.get("axis") if node.version < 7 else None
    return y if axis is None else y.reshape(*y.shape, *[1] * (x.dim() - axis % x.dim() - y.dim()))


def _widened(function: Compute) -> Compute:
    """Compute unsigned integers in int64."""

    @functools.wraps(function)
    def compute(node: OnnxNode, *inputs: Tensor) -> Tensor:
        dtype = next((value.dtype for value in inputs if value.dtype in _UNSIGNED), None)
        if dtype is None:
            return function(node, *inputs)  # type: ignore[no-any-return]
        result = function(node, *(value.long() if value.dtype in _UNSIGNED else value for value in inputs))
        return result.to(dtype) if result.dtype is torch.int64 else result  # type: ignore[no-any-return]

    return compute


def _unary(function: Callable[[Tensor], Tensor]) -> Compute:
    return _widened(lambda _, x: function(x))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Compute:
    return _widened(lambda node, x, y: function(x, _aligned(node, x, y)))


for _name, _one in _UNARY.items():
    operator(_name)(_unary(_one))
for _name, _two in _BINARY.items():
    operator(_name)(_binary(_two))


@operator("Identity")
def identity(_: OnnxNode, value: Any) -> Any:
    """Return the value, which may be a sequence."""
    return value


@operator("Div")
@_widened
def div(node: OnnxNode, x: Tensor, y: Tensor) -> Tensor:
    """Divide; integers truncate."""
    y = _aligned(node, x, y)
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operator("Mod")
@_widened
def mod(node: OnnxNode, x: Tensor, y: Tensor) -> Tensor:
    """Return the remainder, with the sign of the divisor, or with ``fmod`` that of the dividend."""
    return torch.fmod(x, y) if node.get("fmod", 0) else torch.remainder(x, y)


@operator("Pow")
@_widened
def power(node: OnnxNode, x: Tensor, y: Tensor) -> Tensor:
    """Return powers in the type of the base."""
    y = _aligned(node, x, y)
    if x.is_floating_point() or not y.is_floating_point():
        return torch.pow(x, y).to(x.dtype)
    return torch.pow(x.to(torch.float64), y).to(x.dtype)


@operator("BitShift")
def bit_shift(node: OnnxNode, x: Tensor, y: Tensor) -> Tensor:
    """Shift bits; those of an uint64 are shifted to the right as those of a positive number."""
    if node.attributes["direction"] == "LEFT":
        return _shifted(torch.bitwise_left_shift, x, y)
    result = _shifted(torch.bitwise_right_shift, x, y)
    if x.dtype is not torch.uint64:
        return result
    kept = torch.bitwise_right_shift(torch.tensor(2**63 - 1), torch.clamp(y.long() - 1, min=0))
    return torch.where(y.long() > 0, result.long() & kept, x.long()).to(x.dtype)


def _shifted(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return function(x.long(), y.long()).to(x.dtype)


@operator("Max", "Min")
def extreme(node: OnnxNode, *inputs: Tensor) -> Tensor:
    """Return the elementwise maximum or minimum of any number of tensors."""
    function = torch.maximum if node.operator == "Max" else torch.minimum
    return functools.reduce(lambda x, y: _widened(lambda _, *pair: function(*pair))(node, x, y), inputs)


@operator("Sum", "Mean")
def total(node: OnnxNode, *inputs: Tensor) -> Tensor:
    """Return the elementwise sum or mean of any number of tensors."""
    result = functools.reduce(op.add, inputs)
    return result / len(inputs) if node.operator == "Mean" else result


@operator("Where")
def where(_: OnnxNode, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Choose elements."""
    return torch.where(condition, x, y)


@operator("Clip")
def clip(node: OnnxNode, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limit elements, to the upper limit where it is the lower one; before operator set 11 limits are attributes."""
    if node.version < 11:
        least, most = node.get("min"), node.get("max")
    else:
        least, most = (None if value is None else value.reshape(()) for value in (low, high))
    return x if least is None and most is None else _widened(lambda _, y: torch.clamp(y, least, most))(node, x)


@operator("IsInf")
def is_inf(node: OnnxNode, x: Tensor) -> Tensor:
    """Return where elements are infinite, of both signs or of one."""
    positive, negative = node.get("detect_positive", 1), node.get("detect_negative", 1)
    if positive and negative:
        return torch.isinf(x)
    if not positive and not negative:
        return torch.zeros(x.shape, dtype=torch.bool)
    return torch.isposinf(x) if positive else torch.isneginf(x)


# Rectifiers are computed without comparisons, which would count as choices of the model.


@operator("PRelu")
@_widened
def prelu(node: OnnxNode, x: Tensor, slope: Tensor) -> Tensor:
    """Scale negative elements by a slope, before operator set 7 one a channel."""
    if node.version < 7 and slope.numel() > 1:
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    return torch.clamp(x, min=0) + slope * torch.clamp(x, max=0)


@operator("LeakyRelu")
def leaky_relu(node: OnnxNode, x: Tensor) -> Tensor:
    """Scale negative elements."""
    return functional.leaky_relu(x, node.get("alpha", 0.01))


@operator("HardSigmoid")
def hard_sigmoid(node: OnnxNode, x: Tensor) -> Tensor:
    """Return max(0, min(1, alpha x + beta))."""
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


@operator("Celu", "Elu", "ThresholdedRelu")
def rectifier(node: OnnxNode, x: Tensor) -> Tensor:
    """Return one of the rectifiers with an attribute alpha."""
    alpha = node.get("alpha", 1.0)
    if node.operator == "ThresholdedRelu":
        return functional.threshold(x, alpha, 0.0)
    return functional.celu(x, alpha) if node.operator == "Celu" else functional.elu(x, alpha)


@operator("Selu")
def selu(node: OnnxNode, x: Tensor) -> Tensor:
    """Return gamma x, or gamma alpha (exp x - 1) for negative elements."""
    alpha = node.get("alpha", 1.67326319217681884765625)
    return node.get("gamma", 1.05070102214813232421875) * functional.elu(x, alpha)  # type: ignore[no-any-return]


@operator("Shrink")
def shrink(node: OnnxNode, x: Tensor) -> Tensor:
    """Move elements by a bias toward zero, small ones to zero."""
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    zero = torch.zeros((), dtype=x.dtype)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero)).to(x.dtype)


@operator("Gelu")
def gelu(node: OnnxNode, x: Tensor) -> Tensor:
    """Return x times the normal distribution function of x."""
    return functional.gelu(x, approximate=node.get("approximate", "none"))


@operator("Swish")
def swish(node: OnnxNode, x: Tensor) -> Tensor:
    """Return x sigmoid(alpha x)."""
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


@operator("Cast")
def cast(node: OnnxNode, x: Tensor) -> Tensor:
    """Convert to another type; fractions are cut off."""
    return x.to(dtype_of(node.attributes["to"]))


@operator("CastLike")
def cast_like(_: OnnxNode, x: Tensor, like: Tensor) -> Tensor:
    """Convert to the type of another tensor."""
    return x.to(like.dtype)


@operator("Dropout")
def dropout(node: OnnxNode, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Any:
    """Return the input and a mask of ones.

    Raises:
        ModelError: elements would be dropped at random.
    """
    if training is not None and bool(training) and (ratio is None or torch.count_nonzero(ratio)):
        raise ModelError(f"the node {node.name!r} drops values at random, which has no evaluation.")
    return x, torch.ones(x.shape, dtype=torch.bool if node.version >= 10 else x.dtype)
