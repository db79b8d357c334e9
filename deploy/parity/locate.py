"""Find the first tensor of a graph that differs from the model, by comparing values with every operator of the model.

Names are not needed, so a file from any exporter will do. A tensor of the graph agrees if some operator of the float64
run has the same values, within four times the noise of PyTorch's own run. Tensors inside a decomposition (the parts of
a GELU) have no counterpart, although tensors computed from them agree. The fault is therefore the first tensor without
a counterpart from which no agreeing tensor is computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.parity.verdict import ENVELOPE, FLOOR
from deploy.support.sketch import distance, same_values

Array = NDArray[Any]

TOLERANCE_FACTOR = 2.0
"""Extra tolerance here: sketches estimate distances to within a few percent, and single tensors vary more than outputs
over all probes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorRecord:
    """The output of one operator in PyTorch.

    Attributes:
        reference: sketch of the output in float64.
        baseline: sketch of the output in the precision of the graph.
    """

    module: str
    shape: tuple[int, ...]
    reference: Array
    baseline: Array

    @property
    def noise(self) -> float:
        """Relative distance of PyTorch's own run from float64."""
        return distance(self.baseline, self.reference)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphStep:
    """One float tensor of the graph and the node that computes it; ``scope`` is the module recorded by the exporter."""

    tensor: str
    node: str
    operator: str
    scope: str
    shape: tuple[int, ...]
    sketch: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """The first tensor that differs from the model.

    Attributes:
        tensor: its name in the graph; empty if every tensor agrees when nodes run one at a time.
        node, operator: the node that computes it.
        module: the module it belongs to, as recorded in the graph or as found for its counterpart in the model.
        noise: relative distance from its nearest counterpart; None if no tensor of the model has its size.
        own: the same distance in PyTorch's own run.
        after: the last tensor before it that agrees.
    """

    tensor: str = ""
    node: str = ""
    operator: str = ""
    module: str = ""
    noise: float | None = None
    own: float | None = None
    after: str
    agreed: int
    compared: int


def first_difference(
    steps: Sequence[GraphStep], made_by: dict[str, tuple[str, ...]], records: Sequence[OperatorRecord], precision: str
) -> Location:
    """Find the first tensor that differs from the model; ``tensor`` of the location is empty if every tensor agrees.

    Steps and records are in execution order. ``made_by`` gives for every tensor of any type the inputs of the node that
    computes it.
    """
    by_size: dict[int, list[OperatorRecord]] = defaultdict(list)
    for record in records:
        by_size[int(np.prod(record.shape, dtype=np.int64))].append(record)
    nearest = {step.tensor: _nearest(step, by_size) for step in steps}
    agrees = {step.tensor for step in steps if _agrees(step, *nearest[step.tensor], by_size, precision)}
    needed = _ancestors(agrees, made_by)
    last = ""
    for step in steps:
        if step.tensor in agrees:
            last = step.tensor
        elif step.tensor not in needed:
            counterpart, noise = nearest[step.tensor]
            return Location(
                tensor=step.tensor,
                node=step.node,
                operator=step.operator,
                module=step.scope or (counterpart.module if counterpart else ""),
                noise=noise if counterpart else None,
                own=counterpart.noise if counterpart else None,
                after=last,
                agreed=len(agrees),
                compared=len(steps),
            )
    return Location(after=last, agreed=len(agrees), compared=len(steps))


def _nearest(step: GraphStep, by_size: dict[int, list[OperatorRecord]]) -> tuple[OperatorRecord | None, float]:
    candidates = by_size.get(int(np.prod(step.shape, dtype=np.int64)), [])
    distances = [distance(step.sketch, record.reference) for record in candidates]
    if not distances:
        return None, float("inf")
    best = int(np.argmin(distances))
    return candidates[best], distances[best]


def _agrees(
    step: GraphStep,
    record: OperatorRecord | None,
    noise: float,
    by_size: dict[int, list[OperatorRecord]],
    precision: str,
) -> bool:
    if record is None:
        return False
    if noise <= TOLERANCE_FACTOR * ENVELOPE * max(record.noise, FLOOR[precision]):
        return True
    reshaped = [other for other in by_size[int(np.prod(step.shape, dtype=np.int64))] if other.shape != step.shape]
    tolerance = ENVELOPE * FLOOR[precision] * 16
    return any(same_values(step.sketch, other.reference, max(tolerance, other.noise)) for other in reshaped)


def _ancestors(tensors: set[str], made_by: dict[str, tuple[str, ...]]) -> set[str]:
    seen: set[str] = set()
    stack = list(tensors)
    while stack:
        for name in made_by.get(stack.pop(), ()):
            if name not in seen:
                seen.add(name)
                stack.append(name)
    return seen
