"""The model in PyTorch with other roundings: how far apart may two correct implementations be?"""

from __future__ import annotations

import torch

from deploy.backends.torch.reference import OperatorCall, PyTorchRunner
from deploy.core.model import Model

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
_BOUNDED = ("sigmoid", "tanh", "silu", "gelu", "elu", "erf", "_softmax", "hardswish", "hardsigmoid")


class PerturbedRunner(PyTorchRunner):
    """A `PyTorchRunner` with one more rounding error in the result of every layer.

    Results of linear layers are off by one rounding, relative. Activations are off by one rounding of their largest
    value: runtimes compute them with polynomials whose absolute error is bounded, so that results near 0 have no
    correct digit. (ONNX Runtime's sigmoid is 1.5e-8 where the exact value is 1e-30.)
    """

    def __init__(self, model: Model, precision: str) -> None:
        super().__init__(model, precision, observe=self._perturb)
        self._rounding = 2.0**-24 if precision == "fp32" else 2.0**-11
        self._random = torch.Generator().manual_seed(0)

    def _perturb(self, call: OperatorCall) -> None:
        name = call.operator.rstrip("_") if call.operator != "_softmax" else call.operator
        result = call.result[0] if isinstance(call.result, (tuple, list)) else call.result
        if name in _LINEAR:
            noise = torch.randn(result.shape, generator=self._random, dtype=torch.float32)
            result.mul_(1.0 + self._rounding * noise.to(result.dtype))
        elif name in _BOUNDED and result.numel():
            result.add_(self._rounding * result.abs().max())
