"""The model in PyTorch with other roundings: how far apart may two correct implementations be?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from deploy.backends.torch.reference import OperatorCall, PyTorchRunner
from deploy.core.model import Model
from deploy.core.runner import Feeds, Fetches

_LINEAR = (
    "convolution",
    "addmm",
    "mm",
    "bmm",
    "baddbmm",
    "native_batch_norm",
    "native_layer_norm",
    "native_group_norm",
)
_BOUNDED = ("tanh", "gelu", "erf", "_softmax")
_SHARES = ("sigmoid", "hardsigmoid", "_softmax")
_AROUND_ONE = ("sigmoid", "hardsigmoid", "elu", "celu", "expm1", "log1p", "log_sigmoid_forward")
_GATED = ("silu", "hardswish", "glu")
_ROUNDINGS = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}

IN_PLACE = 6.0
"""Where a gated result below 0 has replaced its operand x, x is taken for −6: far below that, the result is near 0."""


class OtherRoundings:
    """Adds one more rounding error to the result of every layer of a run.

    Results of linear layers are off by one rounding, relative. Activations are off by one rounding of their largest
    value: runtimes compute them with polynomials whose absolute error is bounded, so that results near 0 have no
    correct digit. A sigmoid and ``exp(x) - 1`` are sums with 1, so a rounding of 1 counts even where all results are
    small; ``x * sigmoid(x)`` has that error times x. (ONNX Runtime's sigmoid is off by up to 1.6e-7.)

    Attributes:
        used: whether any result was changed.

    Args:
        precision: precision of the run.
        layers: False for the roundings of 1 alone, up or down at random; otherwise all activations are off in one
            direction, which adds up.
    """

    def __init__(self, precision: str, *, layers: bool = True) -> None:
        self.used = False
        self._layers = layers
        self._rounding = _ROUNDINGS[precision]
        self._random = torch.Generator()
        self.begin()

    def begin(self) -> None:
        """Start a run: every run has the same roundings."""
        self._random.manual_seed(0)

    def add(self, call: OperatorCall) -> None:
        """Change the result of an operator in place."""
        name = call.operator.rstrip("_") if call.operator != "_softmax" else call.operator
        around_one = name in _AROUND_ONE or name in _GATED
        if not (around_one or name in _LINEAR or name in _BOUNDED):
            return
        result = call.result[0] if isinstance(call.result, (tuple, list)) else call.result
        if name in _LINEAR and self._layers:
            result.mul_(1.0 + self._rounding * self._noise(result))
            self.used = True
        elif (around_one or (name in _BOUNDED and self._layers)) and result.numel():
            self.used = True
            size = _size(name, call.operands, result)
            result.add_(self._rounding * size * (1.0 if self._layers else self._noise(result).sign()))
            if name in _SHARES:
                result.abs_().clamp_(max=1.0)

    def _noise(self, like: Any) -> Any:
        return torch.randn(like.shape, generator=self._random, dtype=torch.float32).to(like.dtype)


def _size(name: str, operands: Sequence[Any], result: torch.Tensor) -> torch.Tensor:
    """Return the numbers whose rounding the results of an activation are off by."""
    if name in _BOUNDED:
        return result.abs().max()
    if name == "glu":
        return torch.as_tensor(operands[0].chunk(2, operands[1])[0].abs())
    if name in _GATED and operands[0] is not result:
        return torch.as_tensor(operands[0].abs())
    size = result.abs().clamp(min=1.0)
    return size.where(result >= 0.0, IN_PLACE) if name in _GATED else size


class Alteration(Protocol):
    """Changes the results of operators during a run."""

    def begin(self) -> None:
        """Start a run."""
        ...

    def add(self, call: OperatorCall) -> None:
        """Change the result of an operator in place, or leave it."""
        ...


class AlteredRunner(PyTorchRunner):
    """A `PyTorchRunner` whose operators have other results: each goes through all alterations, in order."""

    def __init__(self, model: Model, precision: str, alterations: Sequence[Alteration]) -> None:
        self._alterations = tuple(alterations)
        super().__init__(model, precision, observe=self._alter if self._alterations else None)

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        for alteration in self._alterations:
            alteration.begin()
        return super().run(feeds)

    def _alter(self, call: OperatorCall) -> None:
        for alteration in self._alterations:
            alteration.add(call)


class PerturbedRunner(AlteredRunner):
    """An `AlteredRunner` with `OtherRoundings` before its other alterations."""

    def __init__(
        self, model: Model, precision: str, *, layers: bool = True, alterations: Sequence[Alteration] = ()
    ) -> None:
        self.roundings = OtherRoundings(precision, layers=layers)
        super().__init__(model, precision, (self.roundings, *alterations))
