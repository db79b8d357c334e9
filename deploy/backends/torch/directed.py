"""Search for inputs of a PyTorch model that reach a side of a choice which ordinary probes do not reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from deploy.core.model import Model
from deploy.core.runner import Feeds, Fetches
from deploy.support.sides import intervals, taken
from deploy.support.state import unchanged

Bounds = tuple[float, ...]
Side = tuple[int, int]
"""Index of a choice in execution order, and of the side in the order of its values."""

_PIECEWISE: Mapping[str, Callable[..., Bounds]] = {
    "relu": lambda *_, **__: (0.0,),
    "leaky_relu": lambda *_, **__: (0.0,),
    "prelu": lambda *_, **__: (0.0,),
    "elu": lambda *_, **__: (0.0,),
    "selu": lambda *_, **__: (0.0,),
    "celu": lambda *_, **__: (0.0,),
    "threshold": lambda threshold, *_, **__: (float(threshold),),
    "relu6": lambda *_, **__: (0.0, 6.0),
    "hardswish": lambda *_, **__: (-3.0, 3.0),
    "hardsigmoid": lambda *_, **__: (-3.0, 3.0),
    "hardtanh": lambda min_val=-1.0, max_val=1.0, *_, **__: _edges(min_val, max_val),
    "clamp": lambda min=None, max=None, **_: _edges(min, max),
    "clip": lambda min=None, max=None, **_: _edges(min, max),
    "clamp_min": lambda min, **_: _edges(min, None),
    "clamp_max": lambda max, **_: _edges(None, max),
}
"""The values at which a function of one tensor changes its piece, from its other arguments."""

_COMPARISONS = {"gt", "ge", "lt", "le", "greater", "less", "__gt__", "__ge__", "__lt__", "__le__", "maximum", "minimum"}


def _edges(low: Any, high: Any) -> Bounds:
    return tuple(float(edge) for edge in (low, high) if isinstance(edge, (int, float)) and abs(edge) < 3e38)


@dataclass(slots=True)
class _Choice:
    values: torch.Tensor
    bounds: Bounds

    def reached(self) -> set[int]:
        """Return the sides that any value takes."""
        low, high = self.values.detach().aminmax()
        return taken(self.bounds, float(low), float(high))

    def distance(self, side: int) -> torch.Tensor:
        """Return how far the nearest value is from a side, in standard deviations of the values; negative inside."""
        lower, upper = intervals(self.bounds)[side]
        scale = self.values.detach().std().clamp_min(1e-6) if self.values.numel() > 1 else torch.ones(())
        gaps = torch.maximum(lower - self.values, self.values - upper)
        return (gaps.min() / scale).float()


class _Watch(TorchFunctionMode):
    """Records the values that decide the choices of a model, in execution order."""

    def __init__(self) -> None:
        super().__init__()
        self.choices: list[_Choice] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensor = args[0] if args else kwargs.get("input")
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
            if (piece := name.rstrip("_")) in _PIECEWISE:
                rest = {key: value for key, value in kwargs.items() if key not in ("input", "inplace", "out")}
                try:
                    bounds = _PIECEWISE[piece](*args[1:], **rest)
                except TypeError:
                    bounds = ()
                if bounds:
                    self.choices.append(
                        _Choice(tensor.clone() if name.endswith("_") or kwargs.get("inplace") else tensor, bounds)
                    )
            elif name in _COMPARISONS and len(args) > 1:
                with torch._C.DisableTorchFunction():
                    self.choices.append(_Choice(tensor - args[1], (0.0,)))
        return func(*args, **kwargs)


def search(
    model: Model, feeds: Sequence[Feeds], ranges: Mapping[str, tuple[float, float]], steps: int
) -> list[Fetches]:
    """Search for inputs that reach sides which ``feeds`` do not, by gradient descent on the distance from them.

    Args:
        model: run in float32.
        feeds: inputs that were probed; the search starts from the first two.
        ranges: range of each float input that the search stays in.
        steps: number of gradient steps from each start.

    Returns:
        The inputs; none where the model has no choices, cannot be differentiated, or has no float input.
    """
    missing: set[Side] | None = None
    for item in feeds:
        choices = _choices(model, _tensors(item))
        if choices is None:
            return []
        sides = {(index, side) for index, choice in enumerate(choices) for side in range(len(choice.bounds) + 1)}
        missing = (sides if missing is None else missing) - _reached(choices)
        if not missing:
            return []
    return [found for start in feeds[:2] if missing for found in _descend(model, start, ranges, steps, missing)]


def _reached(choices: Sequence[_Choice]) -> set[Side]:
    return {(index, side) for index, choice in enumerate(choices) for side in choice.reached()}


def _descend(
    model: Model, start: Feeds, ranges: Mapping[str, tuple[float, float]], steps: int, missing: set[Side]
) -> Iterator[Fetches]:
    """Yield inputs that reach a missing side, and remove it from ``missing``."""
    tensors = _tensors(start)
    moving = [name for name, value in tensors.items() if value.is_floating_point() and name in ranges]
    for step in range(steps):
        for name in moving:
            tensors[name] = tensors[name].detach().requires_grad_()
        choices = _choices(model, tensors, grad=True)
        if not moving or choices is None:
            return
        reached = _reached(choices) & missing
        if reached:
            missing -= reached
            yield {name: value.detach().numpy().copy() for name, value in tensors.items()}
        goals = [choices[index].distance(side) for index, side in missing if index < len(choices)]
        goals = [goal for goal in goals if goal.requires_grad and bool(torch.isfinite(goal))]
        if not goals or step == steps - 1:
            return
        try:
            gradients = torch.autograd.grad(
                sum(goals[1:], goals[0]), [tensors[name] for name in moving], allow_unused=True
            )
        except RuntimeError:  # an operator without a derivative
            return
        for name, gradient in zip(moving, gradients, strict=True):
            if gradient is not None:
                low, high = ranges[name]
                size = 2.0 * (high - low) / steps
                with torch.no_grad():
                    tensors[name] = (tensors[name] - size * gradient.sign()).clamp(low, high)


def exercised(model: Model, feeds: Feeds, names: set[str]) -> set[str]:
    """Return those of the model's tensors on which its float outputs depend at one input (non-zero gradient)."""
    tensors = {**dict(model.module.named_parameters()), **dict(model.module.named_buffers())}
    wanted = {name: value for name, value in tensors.items() if name in names and value.is_floating_point()}
    before = {name: value.requires_grad for name, value in wanted.items()}
    try:
        for value in wanted.values():
            value.requires_grad_()
        with unchanged(model.module), torch.enable_grad():
            outputs = model.call(_tensors(feeds))
            floats = [value for value in outputs.values() if value.requires_grad]
            weights = torch.Generator().manual_seed(0)
            total = sum((value * torch.randn(value.shape, generator=weights)).sum() for value in floats)
            if not isinstance(total, torch.Tensor):
                return set()
            gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    except RuntimeError:  # an operator without a derivative
        return set()
    finally:
        for name, value in wanted.items():
            value.requires_grad_(before[name])
    return {name for name, item in zip(wanted, gradients, strict=True) if item is not None and bool(item.any())}


def _tensors(feeds: Feeds) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in feeds.items()}


def _choices(model: Model, tensors: Mapping[str, torch.Tensor], *, grad: bool = False) -> list[_Choice] | None:
    with unchanged(model.module), torch.set_grad_enabled(grad), _Watch() as watch:
        try:
            model.call(tensors)
        except Exception:  # the parity check reports a model that does not run
            return None
    choices: list[_Choice] = watch.choices
    return choices
