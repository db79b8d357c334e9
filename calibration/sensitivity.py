"""Which layers eight bits hurt, and how many must be given back to float until a bound holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import onnx

from calibration.graph import WEIGHTED, initializers

Reached = TypeVar("Reached")


def layers(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes with weights, in execution order."""
    stored = initializers(model)
    return [node.name for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in stored]


def rank(names: Sequence[str], sqnr_alone: Callable[[str], float]) -> list[tuple[str, float]]:
    """Layers with the SQNR of the output, in dB, where each alone is quantized; the most sensitive first."""
    return sorted(((name, sqnr_alone(name)) for name in names), key=lambda item: item[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class RelaxationStep(Generic[Reached]):
    """One more layer in float, and what was then reached."""

    layer: str
    reached: Reached


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatLayerPlan(Generic[Reached]):
    """Layers given back to float, in order.

    Attributes:
        start: what was reached with every layer quantized.
        steps: one a layer.
        holds: whether the bound holds after the last.
    """

    start: Reached
    steps: tuple[RelaxationStep[Reached], ...]
    holds: bool

    @property
    def keep_float(self) -> frozenset[str]:
        """The layers in float."""
        return frozenset(step.layer for step in self.steps)


def relax(
    order: Sequence[str],
    measure: Callable[[frozenset[str]], Reached],
    holds: Callable[[Reached], bool],
) -> FloatLayerPlan[Reached]:
    """Give layers back to float, in ``order``, until the bound holds or none is left.

    Args:
        order: layers, the most sensitive first.
        measure: what is reached with these layers in float.
        holds: whether that is enough.
    """
    start = measure(frozenset())
    steps: list[RelaxationStep[Reached]] = []
    reached = start
    for name in order:
        if holds(reached):
            break
        reached = measure(frozenset([*(step.layer for step in steps), name]))
        steps.append(RelaxationStep(layer=name, reached=reached))
    return FloatLayerPlan(start=start, steps=tuple(steps), holds=holds(reached))
