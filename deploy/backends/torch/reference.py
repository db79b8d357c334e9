"""The model in PyTorch with weights converted one operator at a time: float64 (the reference), float32 or float16."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import _disable_current_modes

from deploy.backends.torch.module_names import RunningModules
from deploy.core.errors import DeployError, ModelError
from deploy.core.model import Model
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.support.dispatch import beside_compiler
from deploy.support.precision import computed_in
from deploy.support.runtime_errors import run_error
from deploy.support.state import Changes, unchanged

PRECISIONS = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_CONVERSIONS = ("_to_copy", "detach", "alias", "clone", "lift_fresh", "t")


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorCall:
    """A call of an operator: its name, the calling module, its operands and its result in the precision of the run.

    The operands are all of the operator's signature, in order, also those that have their default.
    """

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

    The weights are not copied. Every run starts from the same state: what forward changes is restored after it, see
    `deploy.support.state.unchanged`. ``read`` names the parameters and buffers that runs in another precision than the
    model's own have read. ``observe`` is called after every operator of a run.

    Raises:
        ModelError: the weights have no values (device ``meta``) or are bfloat16.
    """

    def __init__(
        self, model: Model, precision: str = "fp32", observe: Callable[[OperatorCall], None] | None = None
    ) -> None:
        missing = [name for name, value in model.module.named_parameters() if value.is_meta]
        if missing:
            raise ModelError(
                f"{model.name}: {len(missing)} parameters have no values (device meta), for example {missing[0]}.",
                "load the weights before the model is exported",
            )
        self.model = model
        self.dtype = PRECISIONS[precision]
        self.precision = precision
        self.converted = precision == "fp64" or precision != model.precision  # records what is read
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
        with self._errors(feeds):
            tensors = self.tensors(feeds)
            observe = self.observe
            return beside_compiler(lambda: self._call(tensors) if observe is None else self._observed(tensors, observe))

    def run_again(self, feeds: Feeds) -> tuple[Fetches, Fetches, Changes]:
        """Run twice in a row, the second time from the state that the first run left.

        Returns:
            Both results, and what forward changed; it is restored.
        """

        def run() -> tuple[Fetches, Fetches, Changes]:
            with unchanged(self.model.module) as changes:
                results = [self._plain(self.tensors(feeds)) for _ in range(2)]
            return results[0], results[1], changes

        with self._errors(feeds):
            return beside_compiler(run)

    @contextmanager
    def _errors(self, feeds: Feeds) -> Iterator[None]:
        try:
            yield
        except DeployError:
            raise
        except Exception as exc:
            raise run_error(f"{self.model.name} in PyTorch ({self.precision})", feeds, str(exc)) from exc

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

    def _observed(self, tensors: Mapping[str, Any], observe: Callable[[OperatorCall], None]) -> Fetches:
        def add(operator: str, operands: tuple[Any, ...], result: Any) -> None:
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                observe(OperatorCall(operator=operator, module=parts.innermost, operands=operands, result=result))

        with RunningModules(self.model.module) as parts, computed_in(self.dtype, self.model.module, add) as read:
            result = _arrays(self.model.call(tensors))
        self.read |= read
        return result

    def _call(self, tensors: Mapping[str, Any]) -> Fetches:
        if not self.converted:
            with unchanged(self.model.module):
                return self._plain(tensors)
        with computed_in(self.dtype, self.model.module) as read:
            result = _arrays(self.model.call(tensors))
        self.read |= read
        return result

    def _plain(self, tensors: Mapping[str, Any]) -> Fetches:
        with torch.inference_mode():
            return _arrays(self.model.call(tensors))


def _arrays(outputs: Mapping[str, torch.Tensor]) -> Fetches:
    """Return copies, since an output may be a buffer whose content is restored after the run."""
    return {name: to_array(value) for name, value in outputs.items()}


def to_array(value: torch.Tensor) -> NDArray[Any]:
    """Return a copy as an array; bfloat16 becomes float32."""
    value = value.detach().cpu()
    if value.dtype is torch.bfloat16:  # which NumPy lacks; a conversion by PyTorch would be in the precision of the run
        return np.asarray(value.view(torch.int16).numpy().view(ml_dtypes.bfloat16).astype(np.float32))
    return np.array(value.numpy())


def baseline_of(model: Model, precision: str, reference: Runner) -> Runner:
    """Return PyTorch's own run in the precision of a file, by which the rounding errors of the file are judged."""
    if precision == "fp64":
        return ScaledRunner(reference, PyTorchRunner(model, "fp32"))
    return PyTorchRunner(model, precision)


class ScaledRunner(Runner):
    """An estimate of PyTorch's own run in float64, where the reference is float64 too: its error is that of float32.

    Rounding errors are proportional to the unit roundoff, 2⁻⁵³ in float64 and 2⁻²⁴ in float32, so the float32 run's
    difference from the reference is divided by 2²⁹. Integers and outputs of another shape are the reference's.
    """

    def __init__(self, reference: Runner, single: Runner) -> None:
        self.reference, self.single = reference, single
        self.inputs, self.outputs = reference.inputs, reference.outputs

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        expected, own = self.reference.run(feeds), self.single.run(feeds)
        return {
            name: value + (own[name] - value) * 2.0**-29
            if np.issubdtype(value.dtype, np.floating) and own[name].shape == value.shape
            else value
            for name, value in expected.items()
        }
