"""The model itself, run by PyTorch in float64 (the reference), float32 or float16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.module_tracker import ModuleTracker

from deploy.core.errors import BackendError, DeployError
from deploy.core.model import Model, name_outputs
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.support.precision import computed_in
from deploy.support.sketch import sketch

_CONVERSIONS = ("_to_copy", "detach", "alias", "clone", "lift_fresh", "t")
PRECISIONS = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operator of a traced run: its name, the module it ran in, and its result's shape and sketch."""

    operator: str
    module: str
    shape: tuple[int, ...]
    sketch: NDArray[np.float64]


class PyTorchRunner(Runner):
    """Runs a `Model`; outputs are numpy arrays, floats in the precision it was computed in.

    Args:
        model: the model; its module is not changed.
        precision: ``fp64``, ``fp32`` or ``fp16``; no second copy of the weights is made.

    Attributes:
        read: names of the parameters and buffers that were read by a run in another precision than fp32.
    """

    def __init__(self, model: Model, precision: str = "fp32") -> None:
        self.model = model
        self.dtype = PRECISIONS[precision]
        self.precision = precision
        self.inputs = model.inputs
        self.outputs: tuple[TensorSpec, ...] = ()
        self.read: set[str] = set()

    def tensors(self, feeds: Feeds) -> dict[str, torch.Tensor]:
        """Feeds as tensors in this runner's precision."""
        made = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feeds.items()}
        return {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in made.items()}

    def _call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        positional, keyword = self.model.arguments(tensors)
        if self.dtype is torch.float32:
            with torch.inference_mode():
                return name_outputs(self.model.module(*positional, **keyword))
        with computed_in(self.dtype, self.model.module) as read:
            result = name_outputs(self.model.module(*positional, **keyword))
        self.read |= read
        return result

    def trace(self, feeds: Feeds) -> list[Operation]:
        """Run once and sketch the float result of every operator, in order; none is kept."""
        found: list[Operation] = []

        def observe(operator: str, value: torch.Tensor) -> None:
            if value.numel() > 1 and operator not in _CONVERSIONS:
                module = max(tracker.parents, key=len).partition(".")[2]
                with torch._C.DisableTorchFunction(), _disable_current_modes():
                    array = value.detach().numpy()
                found.append(
                    Operation(operator=operator, module=module, shape=tuple(value.shape), sketch=sketch(array))
                )

        positional, keyword = self.model.arguments(self.tensors(feeds))
        with ModuleTracker() as tracker, computed_in(self.dtype, self.model.module, observe):
            self.model.module(*positional, **keyword)
        return found

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        try:
            result = self._call(self.tensors(feeds))
        except DeployError:
            raise
        except Exception as exc:
            shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in feeds.items())
            raise BackendError(
                f"PyTorch could not run {self.model.name} on {shapes} in {self.precision}: {exc}"
            ) from exc
        return {name: np.asarray(value.detach().cpu().numpy()) for name, value in result.items()}
