"""Sensitivity of layers to quantization, and the choice of layers to keep in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatLayerStep(Generic[Result]):
    """One more layer in float, and the measurement with this layer and those of all earlier steps in float."""

    layer: str
    result: Result


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatLayerPlan(Generic[Result]):
    """Layers to keep in float, in the order in which they were chosen; ``start`` is the measurement without them."""

    start: Result
    steps: tuple[FloatLayerStep[Result], ...]
    sufficient: bool

    @property
    def result(self) -> Result:
        """The measurement with all these layers in float."""
        return self.steps[-1].result if self.steps else self.start

    @property
    def keep_float(self) -> frozenset[str]:
        """Names of the layers."""
        return frozenset(step.layer for step in self.steps)


def choose_float_layers(
    order: Sequence[str],
    measure: Callable[[frozenset[str]], Result],
    is_sufficient: Callable[[Result], bool],
    shortfall: Callable[[Result], float],
    pairs: Sequence[tuple[str, str]] = (),
) -> FloatLayerPlan[Result]:
    """Keep more and more layers in float, in this order, until a measurement is sufficient or no layer is left.

    A layer that increases the ``shortfall``, which is the distance to a sufficient measurement, is quantized again.
    Where that leaves a shortfall, ``pairs`` of layers that are quantized are tried together: what one of two neighbors
    gains alone, the rounding of the other may lose.
    """
    start = result = measure(frozenset())
    steps: list[FloatLayerStep[Result]] = []
    for name in order:
        if is_sufficient(result):
            break
        tried = measure(frozenset([*(step.layer for step in steps), name]))
        if shortfall(tried) <= shortfall(result):
            result = tried
            steps.append(FloatLayerStep(layer=name, result=result))
    for pair in pairs:
        if is_sufficient(result):
            break
        kept = [step.layer for step in steps]
        if not set(pair).isdisjoint(kept):
            continue
        tried = measure(frozenset([*kept, *pair]))
        if shortfall(tried) < shortfall(result):
            result = tried
            steps += [FloatLayerStep(layer=name, result=result) for name in pair]
    return FloatLayerPlan(start=start, steps=tuple(steps), sufficient=is_sufficient(result))
