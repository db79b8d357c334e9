"""The model in PyTorch with weights converted one operator at a time: float64 (the reference), float32 or float16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.module_tracker import ModuleTracker

from deploy.core.errors import DeployError
from deploy.core.model import Model
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.support.precision import computed_in
from deploy.support.runtime_errors import run_error

PRECISIONS = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16}
_CONVERSIONS = ("_to_copy", "detach", "alias", "clone", "lift_fresh", "t")


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorCall:
    """A call of an operator: its name, the calling module, its operands and its result in the precision of the run."""

    operator: str
    module: str
    operands: tuple[Any, ...]
    result: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """The result of one operator in a traced run: the calling module, its shape and its `deploy.support.sketch`."""

    operator: str
    module: str
    shape: tuple[int, ...]
    sketch: NDArray[np.float64]


class PyTorchRunner(Runner):
    """Runs a `Model` in ``fp64``, ``fp32`` or ``fp16``; float outputs keep the precision of the run.

    The module is not changed and the weights are not copied. ``read`` names the parameters and buffers that runs in
    fp64 or fp16 have read. ``observe`` is called after every operator of a run.
    """

    def __init__(
        self, model: Model, precision: str = "fp32", observe: Callable[[OperatorCall], None] | None = None
    ) -> None:
        self.model = model
        self.dtype = PRECISIONS[precision]
        self.precision = precision
        self.inputs = model.inputs
        self.outputs: tuple[TensorSpec, ...] = ()
        self.read: set[str] = set()
        self.observe = observe

    def tensors(self, feeds: Feeds) -> dict[str, torch.Tensor]:
        """Convert inputs to tensors, floats in this runner's precision."""
        converted = {name: torch.from_numpy(np.asarray(value, order="C")) for name, value in feeds.items()}
        return {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in converted.items()}

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        try:
            result = self._call(self.tensors(feeds))
        except DeployError:
            raise
        except Exception as exc:
            raise run_error(f"{self.model.name} in PyTorch ({self.precision})", feeds, str(exc)) from exc
        return {name: np.asarray(value.detach().cpu().numpy()) for name, value in result.items()}

    def trace(self, feeds: Feeds) -> list[Operation]:
        """Run once and return the sketch of every operator's float result, in execution order."""
        from deploy.support.sketch import sketch

        operations: list[Operation] = []

        def add(call: OperatorCall) -> None:
            for value in call.result if isinstance(call.result, (list, tuple)) else [call.result]:
                kept = isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1
                if kept and call.operator not in _CONVERSIONS:
                    operations.append(
                        Operation(
                            operator=call.operator,
                            module=call.module,
                            shape=tuple(value.shape),
                            sketch=sketch(value.detach().numpy()),
                        )
                    )

        self._observed(self.tensors(feeds), add)
        return operations

    def _observed(self, tensors: Mapping[str, Any], observe: Callable[[OperatorCall], None]) -> dict[str, Any]:
        def add(operator: str, operands: tuple[Any, ...], result: Any) -> None:
            module = max(tracker.parents, key=len).partition(".")[2]
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                observe(OperatorCall(operator=operator, module=module, operands=operands, result=result))

        with ModuleTracker() as tracker, computed_in(self.dtype, self.model.module, add) as read:
            result = self.model.call(tensors)
        self.read |= read
        return result

    def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        if self.observe is not None:
            return self._observed(tensors, self.observe)
        if self.dtype is torch.float32:
            with torch.inference_mode():
                return self.model.call(tensors)
        with computed_in(self.dtype, self.model.module) as read:
            result = self.model.call(tensors)
        self.read |= read
        return result
