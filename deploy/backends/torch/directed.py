"""Search for inputs of a PyTorch model that reach a side of a choice which ordinary probes do not reach."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from deploy.core.model import Model, name_outputs
from deploy.core.runner import Feeds, Fetches
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

    def sides(self) -> Iterator[tuple[float, float]]:
        return itertools.pairwise((-math.inf, *self.bounds, math.inf))

    def reached(self) -> set[int]:
        """Return the sides that any value takes."""
        low, high = self.values.detach().aminmax()
        return {
            index for index, (lower, upper) in enumerate(self.sides()) if float(low) < upper and float(high) > lower
        }

    def distance(self, side: int) -> torch.Tensor:
        """Return how far the nearest value is from a side, in standard deviations of the values; negative inside."""
        lower, upper = list(self.sides())[side]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The result of `search`.

    Attributes:
        feeds: inputs that reach a side which the given ones did not.
        found: number of sides they reach.
        missing: number of sides that no input reached.
    """

    feeds: tuple[Fetches, ...] = ()
    found: int = 0
    missing: int = 0


def search(model: Model, feeds: Sequence[Feeds], ranges: Mapping[str, tuple[float, float]], steps: int) -> Search:
    """Search for inputs that reach sides which ``feeds`` do not, by gradient descent on the distance from them.

    Args:
        model: run in float32.
        feeds: inputs that were probed; the search starts from the first ones.
        ranges: range of each float input that the search stays in.
        steps: number of gradient steps.

    Returns:
        The inputs; none where the model has no choices, cannot be differentiated, or has no float input.
    """
    missing: set[Side] | None = None
    for item in feeds:
        choices = _choices(model, _tensors(item))
        if choices is None:
            return Search()
        sides = {(index, side) for index, choice in enumerate(choices) for side in range(len(choice.bounds) + 1)}
        reached = {(index, side) for index, choice in enumerate(choices) for side in choice.reached()}
        missing = (sides if missing is None else missing) - reached
        if not missing:
            return Search()
    found: list[Fetches] = []
    before = len(missing or ())
    for start in feeds[:2]:
        if missing:
            found.extend(_descend(model, start, ranges, steps, missing))
    left = len(missing or ())
    return Search(feeds=tuple(found), found=before - left, missing=left)


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
        reached = {(index, side) for index, choice in enumerate(choices) for side in choice.reached()} & missing
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
        positional, keyword = model.arguments(_tensors(feeds))
        with unchanged(model.module), torch.enable_grad():
            outputs = name_outputs(model.module(*positional, **keyword))
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
    positional, keyword = model.arguments(tensors)
    with unchanged(model.module), torch.set_grad_enabled(grad), _Watch() as watch:
        try:
            model.module(*positional, **keyword)
        except Exception:  # the parity check reports a model that does not run
            return None
    choices: list[_Choice] = watch.choices
    return choices
