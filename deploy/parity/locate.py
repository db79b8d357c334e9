"""Where a graph first leaves its model: every tensor matched by value against every operator of the reference.

Names are not needed, so a file from any exporter will do. A tensor of the graph agrees if some operator of the float64
run gives the same values, within four times the noise of PyTorch's own run. Tensors inside a decomposition (the pieces
of a GELU) have no counterpart and yet lead to tensors that agree; the fault is the first tensor without a counterpart
from which no agreeing tensor is reached any more.
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

SLACK = 2.0
"""A sketch tells distances within some percent; single tensors scatter more than outputs over all probes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorRecord:
    """One operator's output in the reference run, and in PyTorch's own."""

    operator: str
    module: str
    shape: tuple[int, ...]
    wide: Array
    own: Array

    @property
    def noise(self) -> float:
        """Distance of PyTorch's own run from float64, relative."""
        return distance(self.own, self.wide)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphStep:
    """One float tensor of the graph, in execution order, with the node that made it."""

    tensor: str
    node: str
    operator: str
    scope: str
    reads: tuple[str, ...]
    shape: tuple[int, ...]
    sketch: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """The first tensor that leaves the model.

    Attributes:
        tensor: its name in the graph, or empty where every tensor agrees when nodes run one at a time.
        module: the module it comes from, by the graph's own record or by its counterpart in the model.
        noise: its relative distance from its nearest counterpart; None where none has its size.
        own: PyTorch's own distance there.
        after: the last tensor before it that agrees.
    """

    tensor: str
    node: str
    operator: str
    module: str
    noise: float | None
    own: float | None
    after: str
    agreed: int
    compared: int


def find(
    steps: Sequence[GraphStep], made_by: dict[str, tuple[str, ...]], records: Sequence[OperatorRecord], precision: str
) -> Location:
    """Find the first tensor that leaves the model.

    Args:
        steps: the graph's float tensors in execution order.
        made_by: for every tensor of the graph, of any type, what the node that made it reads.
        records: the reference run's operators in order.
        precision: what the graph computes in.

    Returns:
        The location; its ``tensor`` is empty where every tensor agrees.
    """
    by_size: dict[int, list[OperatorRecord]] = defaultdict(list)
    for record in records:
        by_size[int(np.prod(record.shape, dtype=np.int64))].append(record)
    nearest = {step.tensor: _nearest(step, by_size) for step in steps}
    agrees = {step.tensor for step in steps if _agrees(step, *nearest[step.tensor], by_size, precision)}
    redeemed = _ancestors(agrees, made_by)
    last, agreed = "", len(agrees)
    for step in steps:
        if step.tensor in agrees:
            last = step.tensor
        elif step.tensor not in redeemed:
            counterpart, noise = nearest[step.tensor]
            return Location(
                tensor=step.tensor,
                node=step.node,
                operator=step.operator,
                module=step.scope or (counterpart.module if counterpart else ""),
                noise=noise if counterpart else None,
                own=counterpart.noise if counterpart else None,
                after=last,
                agreed=agreed,
                compared=len(steps),
            )
    return Location(
        tensor="",
        node="",
        operator="",
        module="",
        noise=None,
        own=None,
        after=last,
        agreed=agreed,
        compared=len(steps),
    )


def _nearest(step: GraphStep, by_size: dict[int, list[OperatorRecord]]) -> tuple[OperatorRecord | None, float]:
    candidates = by_size.get(int(np.prod(step.shape, dtype=np.int64)), [])
    distances = [distance(step.sketch, record.wide) for record in candidates]
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
    if noise <= SLACK * ENVELOPE * max(record.noise, FLOOR[precision]):
        return True
    moved = [other for other in by_size[int(np.prod(step.shape, dtype=np.int64))] if other.shape != step.shape]
    tolerance = ENVELOPE * FLOOR[precision] * 16
    return any(same_values(step.sketch, other.wide, max(tolerance, other.noise)) for other in moved)


def _ancestors(tensors: set[str], made_by: dict[str, tuple[str, ...]]) -> set[str]:
    seen: set[str] = set()
    stack = list(tensors)
    while stack:
        for name in made_by.get(stack.pop(), ()):
            if name not in seen:
                seen.add(name)
                stack.append(name)
    return seen
