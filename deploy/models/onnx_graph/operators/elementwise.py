"""Arithmetic, comparisons and functions of single elements."""

from __future__ import annotations

import functools
import operator as op
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from deploy.models.onnx_graph.node import Compute, Node, operator

Tensor = torch.Tensor

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": functional.softplus,
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
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
    "Sub": op.sub,
    "Xor": torch.logical_xor,
}


def _without_node(function: Callable[..., Any]) -> Compute:
    return lambda _, *inputs: function(*inputs)


for _name, _function in (*_UNARY.items(), *_BINARY.items()):
    operator(_name)(_without_node(_function))


@operator("Div")
def div(_: Node, x: Tensor, y: Tensor) -> Tensor:
    """Divide; integers truncate."""
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operator("Max", "Min")
def extreme(node: Node, *inputs: Tensor) -> Tensor:
    """Return the elementwise maximum or minimum of any number of tensors."""
    return functools.reduce(torch.maximum if node.operator == "Max" else torch.minimum, inputs)


@operator("Sum", "Mean")
def total(node: Node, *inputs: Tensor) -> Tensor:
    """Return the elementwise sum or mean of any number of tensors."""
    result = functools.reduce(op.add, inputs)
    return result / len(inputs) if node.operator == "Mean" else result


@operator("Where")
def where(_: Node, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Choose elements."""
    return torch.where(condition, x, y)


@operator("Clip")
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limit elements; before operator set 11 the limits are attributes."""
    bounds = [None if value is None else value.item() for value in (low, high)]
    least, most = (node.get(name, bound) for name, bound in zip(("min", "max"), bounds, strict=True))
    return x if least is None and most is None else torch.clamp(x, least, most)


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """Scale negative elements."""
    return functional.leaky_relu(x, node.get("alpha", 0.01))


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """Return max(0, min(1, alpha x + beta))."""
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


@operator("Elu", "Celu", "Selu", "ThresholdedRelu")
def exponential(node: Node, x: Tensor) -> Tensor:
    """Return one of the rectifiers with an attribute alpha."""
    alpha = node.get("alpha", 1.67326319217681884765625 if node.operator == "Selu" else 1.0)
    if node.operator == "ThresholdedRelu":
        return torch.where(x > alpha, x, torch.zeros((), dtype=x.dtype))
    if node.operator == "Celu":
        return functional.celu(x, alpha)
    gamma = node.get("gamma", 1.05070102214813232421875) if node.operator == "Selu" else 1.0
    return torch.where(x > 0, gamma * x, gamma * alpha * torch.expm1(x))
