"""A Q/DQ graph as a PyTorch module that can be trained: quantization-aware fine-tuning.

The module runs the very Q/DQ file that a target's rules made, node by node. So roundings are placed where the runtime
has them: there is one table of rules, and no second one for training. QuantizeLinear and DequantizeLinear round in
floating point and pass gradients straight through where a value is inside its range (Bengio et al. 2013,
arXiv:1308.3432; Jacob et al. 2018, arXiv:1712.05877). Biases are not rounded here: the steps of their int32 are far
finer. Weights are floats whose scales follow their largest value. The
ranges of activations stay those of the calibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from calibration.graph import attribute
from deploy.onnx_graph.graph import OnnxModule, Step
from deploy.onnx_graph.node import Values
from deploy.support import onnx_file

TRAINED = frozenset(
    ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization", "LayerNormalization", "PRelu")
)
"""Operators whose float constants with more than one value are trained too."""

SMALL = 1e-3
"""Unit of a parameter that is zero everywhere."""

_QUANTIZED = "_quantized"
"""What ONNX Runtime's quantizer appends to the name of a weight."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """A stored integer weight.

    Attributes:
        name, scale: of the initializers.
        axis: of the channels; None for one scale.
        steps: largest integer, 127, or 64 where seven bits are used.
        key: name of the parameter in the module.
    """

    name: str
    scale: str
    axis: int | None
    steps: int
    key: str


@dataclass(frozen=True, slots=True)
class _Bias:
    """A stored int32 bias: its scale is that of the input times that of a weight."""

    name: str
    scale: str
    weight: str
    key: str


class FakeQuantized(OnnxModule):
    """A Q/DQ graph whose weights can be trained.

    ``forward`` takes the inputs in the order of the graph, float32, and returns the outputs by name. Its parameters are
    float weights and biases; they start as in the float graph where it is given, else as the integers say. Each is
    stored as a share of the root mean square of its channel, so that one learning rate fits all of them.

    Args:
        path: a Q/DQ file that `deploy.quantize` wrote.
        floats: the weights of the float graph by name; those that were quantized are found by name and value.

    Raises:
        ModelError: an operator cannot be evaluated in PyTorch.
    """

    def __init__(self, path: Path, floats: Mapping[str, NDArray[Any]] | None = None) -> None:
        model = onnx_file.load(path)
        super().__init__(model, path.parent)
        self._path = path
        self._nodes = list(onnx_file.load(path).graph.node)
        self._params = torch.nn.ParameterDict()
        self._units: dict[str, torch.Tensor] = {}
        self._weights: dict[str, _Weight] = {}
        self._biases: dict[str, _Bias] = {}
        self._floats: dict[str, str] = {}
        self._find_weights(floats or {})
        self._find_biases()
        self._find_floats()
        self.requires_grad_(False)
        self._params.requires_grad_(True)

    def trained(self) -> Iterator[torch.nn.Parameter]:
        """Yield the parameters that can be trained."""
        yield from self._params.values()

    def values(self) -> dict[str, torch.Tensor]:
        """Return the trained weights and biases as floats, by the names of the tensors that the file stores."""
        keys = {name: weight.key for name, weight in self._weights.items()} | self._floats
        keys |= {name: bias.key for name, bias in self._biases.items()}
        return {name: self._value(key).detach() for name, key in keys.items()}

    def compute(self, step: Step, scope: Values, *inputs: Any) -> tuple[Any, ...]:
        """Return the results of one node; roundings pass gradients."""
        node = step.node
        if node.operator == "DequantizeLinear":
            weight = self._weights.get(node.inputs[0])
            if weight is not None:
                return (self._rounded(weight),)
            bias = self._biases.get(node.inputs[0])
            if bias is not None:
                return (self._value(bias.key),)
            if inputs[0].is_floating_point():  # fake-quantized before
                return (inputs[0],)
        if node.operator == "QuantizeLinear" and inputs[0].is_floating_point():
            value = inputs[0]
            integers = super().compute(step, scope, value, *inputs[1:])[0]
            scale, zero = _along(inputs[1], value, node.get("axis", 1)), inputs[2] if len(inputs) > 2 else None
            shift = 0 if zero is None else _along(zero.to(value.dtype), value, node.get("axis", 1))
            exact = (integers.to(value.dtype) - shift) * scale
            limits = torch.iinfo(integers.dtype)
            inside = value.clamp((limits.min - shift) * scale, (limits.max - shift) * scale)
            return (inside + (exact - inside).detach(),)
        values = [
            self._value(self._floats[name]) if name in self._floats else value
            for name, value in zip(node.inputs, inputs, strict=True)
        ]
        return super().compute(step, scope, *values)

    def save(self, path: Path) -> None:
        """Write the Q/DQ graph with the trained weights, their scales and their biases."""
        model = onnx.load(self._path)
        stored = {item.name: item for item in model.graph.initializer}
        for name, value in self._quantized().items():
            stored[name].CopyFrom(onnx.numpy_helper.from_array(value.reshape(tuple(stored[name].dims)), name))
        onnx_file.save(model, path)

    def _quantized(self) -> dict[str, NDArray[Any]]:
        before, result = self.stored(), {}
        for weight in self._weights.values():
            value = self._value(weight.key).detach()
            scale = self._scale(weight).detach()
            steps = torch.round(value / scale).clamp(-weight.steps, weight.steps)
            result[weight.name] = steps.to(torch.int8).numpy()
            result[weight.scale] = scale.reshape(before[weight.scale].shape).numpy()
        for bias in self._biases.values():
            weight = self._weights[bias.weight]
            factor = result[weight.scale].reshape(-1) / before[weight.scale].detach().numpy().reshape(-1)
            scale_now = before[bias.scale].detach().numpy() * factor.reshape(before[bias.scale].shape)
            limit = 2**31 - 1
            steps_now = np.rint(self._value(bias.key).detach().double().numpy() / scale_now).clip(-limit, limit)
            result[bias.name] = steps_now.astype(np.int32)
            result[bias.scale] = scale_now.astype(np.float32)
        for name, key in self._floats.items():
            result[name] = self._value(key).detach().numpy()
        return result

    def _rounded(self, weight: _Weight) -> torch.Tensor:
        value = self._value(weight.key)
        scale = self._scale(weight)
        exact = torch.round(value / scale).clamp(-weight.steps, weight.steps) * scale
        difference = (exact - value).detach()
        return torch.add(value, difference)

    def _scale(self, weight: _Weight) -> torch.Tensor:
        """Return the scale of a weight, broadcast; no gradient goes through it."""
        value = self._value(weight.key).detach()
        axes = [axis for axis in range(value.dim()) if axis != weight.axis]
        largest = value.abs().amax(axes, keepdim=True) if weight.axis is not None else value.abs().max()
        return (largest / weight.steps).clamp(min=float(np.finfo(np.float32).tiny))

    def _find_weights(self, floats: Mapping[str, NDArray[Any]]) -> None:
        values = self.stored()
        for node in self._nodes:
            if node.op_type != "DequantizeLinear" or node.input[0] not in values:
                continue
            name, scale = node.input[:2]
            steps, step_size = values[name], values[scale].detach()
            if steps.dtype is not torch.int8 or name in self._weights:
                continue
            axis = attribute(node, "axis", 1) % steps.dim() if step_size.numel() > 1 else None
            start = steps.float() * _along(step_size, steps, axis or 0)
            given = floats.get(name.removesuffix(_QUANTIZED))
            if given is not None and given.shape == tuple(steps.shape):
                value = torch.from_numpy(np.array(given, np.float32))
                if bool(((value - start).abs() <= 1.01 * _along(step_size, steps, axis or 0)).all()):
                    start = value
            largest = int(steps.abs().max())
            key = self._parameter(name, start, axis)
            self._weights[name] = _Weight(name, scale, axis, 127 if largest > 64 else 64, key)

    def _find_biases(self) -> None:
        values = self.stored()
        makers = {name: node for node in self._nodes for name in node.output}
        for node in self._nodes:
            if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
                continue
            weight, bias = (makers.get(name) for name in node.input[1:3])
            if weight is None or bias is None or bias.op_type != "DequantizeLinear":
                continue
            steps = values.get(bias.input[0])
            if steps is None or steps.dtype is not torch.int32 or weight.input[0] not in self._weights:
                continue
            start = (steps.double() * values[bias.input[1]].double()).float()
            key = self._parameter(bias.input[0], start)
            self._biases[bias.input[0]] = _Bias(bias.input[0], bias.input[1], weight.input[0], key)

    def _find_floats(self) -> None:
        values = self.stored()
        for node in self._nodes:
            if node.op_type not in TRAINED:
                continue
            for name in node.input[: 3 if node.op_type == "BatchNormalization" else None]:
                value = values.get(name)
                if value is not None and value.is_floating_point() and value.numel() > 1 and name not in self._floats:
                    self._floats[name] = self._parameter(name, value.detach().clone())

    def _parameter(self, name: str, value: torch.Tensor, axis: int | None = None) -> str:
        key = f"{len(self._params)}_{name.replace('.', '/')}"
        axes = [index for index in range(value.dim()) if index != axis]
        size = value.square().mean(axes, keepdim=True).sqrt() if axes else value.square().mean().sqrt()
        self._units[key] = torch.where(size > 0.0, size, max(float(value.square().mean().sqrt()), SMALL))
        self._params[key] = torch.nn.Parameter(value / self._units[key])
        return key

    def _value(self, key: str) -> torch.Tensor:
        return torch.mul(self._params[key], self._units[key])


def _along(values: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return scales in a shape that broadcasts to ``x``."""
    if values.numel() == 1:
        return values.reshape(())
    return values.reshape([-1 if index == axis % x.dim() else 1 for index in range(x.dim())])
