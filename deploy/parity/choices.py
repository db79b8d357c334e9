"""Discrete choices of a model: an index of the largest, an order, a comparison, a rounding, boxes that are kept.

Rounding may decide a choice otherwise, and everything computed from it then differs. A choice of the file is accepted
where the scores in float64 are within rounding of a tie, element by element. Outputs are then compared with a float64
run in which the file's choices are made.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.core.runner import Fetches
from deploy.parity.groups import policy
from deploy.parity.probes import Probe
from deploy.parity.verdict import FLOOR

Array = NDArray[Any]

STEPS: Mapping[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "sign": np.sign,
}
COMPARISONS: Mapping[str, Callable[[Array], Array]] = {
    "gt": lambda gap: gap > 0,
    "ge": lambda gap: gap >= 0,
    "lt": lambda gap: gap < 0,
    "le": lambda gap: gap <= 0,
    "eq": lambda gap: gap == 0,
    "ne": lambda gap: gap != 0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One choice in one run.

    Attributes:
        kind: ``largest`` (index of the largest), ``order`` (indices in order), ``comparison``, ``step`` or ``boxes``.
        rule: for comparisons and steps the name in `COMPARISONS` or `STEPS`.
        scores: what is chosen by, in float64: the difference of the two sides of a comparison; smallest first where
            the sign is reversed.
        result: indices, booleans or steps.
        axis: the axis of the indices; -1 for the flattened scores.
        ordered: whether the order of the indices has a meaning.
        whole: whether the scores are integers, which have no rounding.
        stable: whether equal scores keep their order.
        boxes: for ``boxes``, the corners, shape [n, 4].
        threshold: for ``boxes``, the largest overlap.
    """

    kind: str
    rule: str = ""
    scores: Array
    result: Array
    axis: int = -1
    ordered: bool = True
    whole: bool = False
    stable: bool = False
    boxes: Array | None = None
    threshold: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.scores.nbytes + self.result.nbytes + (0 if self.boxes is None else self.boxes.nbytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """One probe after its choices were compared.

    Attributes:
        expected, own: outputs of the float64 run and of PyTorch's own run, both with the file's choices.
        scores: what the file chose by, by name: reference, PyTorch's own run, and file.
        faults: choices that rounding does not explain, by the same names.
        equal: outputs whose choices in the file were all paired with the model's, so that integers must be equal.
        known: outputs that may be the same for all samples: the scores behind them are judged, or neither the file nor
            the model computes them from the values of the inputs.
        decisions: number of choices; ``own_flips`` and ``flips`` of them are otherwise in PyTorch's own run and in the
            file than in float64.
        selects: whether the model selects boxes in a way that is not known from the file: rows may be in another order.
        other: outputs of the float64 run with the other results of choices that cannot be read from the file and are
            within rounding of a tie, see `otherwise`; None if there are none.
        ties: number of these choices.
    """

    expected: Fetches
    own: Fetches
    scores: Mapping[str, tuple[Array, Array, Array]] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    equal: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    decisions: int = 0
    own_flips: int = 0
    flips: int = 0
    selects: bool = False
    other: Fetches | None = None
    ties: int = 0


class Chooser(Protocol):
    """Compares the choices of a file with those of its model."""

    def settle(self, probe: Probe, expected: Fetches, own: Fetches, outputs: Fetches) -> Settled:
        """Return the outputs of the model with the file's choices; all four have the model's names."""
        ...


def tolerance(reference: Choice, own: Choice, precision: str, group: str) -> float:
    """Return the gap between two scores that rounding can close.

    It is twice (for two scores) the envelope times PyTorch's own largest error of a score.
    """
    finite = np.isfinite(reference.scores) & np.isfinite(own.scores)
    if reference.whole or not finite.any():
        return 0.0
    wide = reference.scores[finite]
    peak = float(np.max(np.abs(own.scores[finite] - wide)))
    size = float(np.sqrt(np.mean(wide * wide)))
    return 2.0 * policy(group).envelope * max(peak, FLOOR[precision] * size)


def largest(scores: Array, result: Array, axis: int) -> Choice:
    """Return the choice of the index of the largest score along an axis, which ``result`` may lack."""
    axis %= scores.ndim
    kept = result if result.ndim == scores.ndim else np.expand_dims(result, axis)
    return Choice(kind="largest", scores=scores, result=kept, axis=axis)


def otherwise(reference: Choice, own: Choice, precision: str, group: str) -> tuple[Choice, int]:
    """Return a choice made otherwise in each element that is within rounding of a tie, and the number of these.

    The second best in place of the largest value; the other one of two steps. Other kinds are returned as they are, and
    so are steps of values that are whole numbers already, as in PyTorch's own run.

    Args:
        reference: the choice in float64.
        own: the same in PyTorch's own run.
        precision: precision of the file.
        group: group of the probe.
    """
    axis, scores, limit = reference.axis, reference.scores, tolerance(reference, own, precision, group)
    if reference.kind == "step" and math.isfinite(limit):
        if np.array_equal(scores, own.scores) and np.array_equal(scores, np.rint(scores)):
            return reference, 0
        step = STEPS[reference.rule]
        low, high = step(scores - limit), step(scores + limit)
        result = np.where(reference.result == low, high, low)
        return replace(reference, result=result), int(np.count_nonzero(low != high))
    if reference.kind != "largest" or scores.ndim == 0 or scores.shape[axis] < 2:
        return reference, 0
    last = np.argsort(scores, axis=axis, kind="stable").take([-2, -1], axis=axis)
    best = reference.result.reshape(last.take([1], axis=axis).shape)
    others = np.where(last.take([1], axis=axis) == best, last.take([0], axis=axis), last.take([1], axis=axis))
    gap = np.take_along_axis(scores, best, axis) - np.take_along_axis(scores, others, axis)
    tied = gap <= limit
    result = np.where(tied, others, best).reshape(reference.result.shape)
    return replace(reference, result=result), int(np.count_nonzero(tied))


def nearer(reference: Array, other: Array, given: Array) -> Array:
    """Return a result with the error to the nearer of two references in each element.

    Where that is ``other``, the element is moved by the difference of the two.
    """
    if not reference.shape == other.shape == given.shape:
        return given
    if given.dtype.kind not in "fc":
        return np.where((given == other) & (given != reference), reference.astype(given.dtype), given)
    with np.errstate(invalid="ignore"):
        closer = np.abs(given - other) < np.abs(given - reference)
        return np.where(closer, given + (reference - other), given)


def differing(left: Choice, right: Choice) -> int:
    """Return the number of elements in which two choices differ."""
    if left.result.shape != right.result.shape:
        return max(1, abs(left.result.size - right.result.size))
    return int(np.count_nonzero(left.result != right.result))


def unexplained(reference: Choice, own: Choice, given: Choice, precision: str, group: str) -> int:
    """Return how many elements of the file's choice are not within rounding of a tie in float64.

    Near ties, it may choose otherwise as often as its noise allows: as many times as often as PyTorch's own run as its
    noise may be larger.

    Args:
        reference: the choice in float64.
        own: the same in PyTorch's own run.
        given: the same in the file; its result is judged.
        precision: precision of the file.
        group: group of the probe.
    """
    limit = tolerance(reference, own, precision, group)
    best, result, envelope = reference.result, given.result, policy(group).envelope
    if reference.kind == "boxes":
        return _boxes(reference, own, result, limit, envelope, FLOOR[precision])
    if best.shape != result.shape:
        return max(best.size, result.size)
    if reference.whole and reference.stable:
        return differing(reference, given)
    far, close = _flips(reference, own, given, limit)
    if far:
        return far
    usual = sum(_flips(reference, own, own, math.inf)) if own.result.shape == best.shape else 0
    return close if close > envelope * (usual + FEW_FLIPS) else 0


def _flips(reference: Choice, own: Choice, given: Choice, limit: float) -> tuple[int, int]:
    """Return how many elements are chosen otherwise than in float64 although they are not tied, and how many near ties.

    Exact ties do not count: any of them may be chosen.
    """
    scores, best, result = reference.scores, reference.result, given.result
    if reference.kind == "comparison":
        exact = (scores == 0) & (own.scores == 0) & (given.scores == 0)  # then the rule decides, not rounding
        tied = (np.abs(scores) <= limit) & ~exact
        other = best != result
        return int(np.count_nonzero(other & ~tied)), int(np.count_nonzero(other & tied))
    if reference.kind == "step":
        step = STEPS[reference.rule]
        low, high = (step(scores - limit), step(scores + limit)) if math.isfinite(limit) else (-limit, limit)
        other = best != result
        tied = (low <= result) & (result <= high)
        return int(np.count_nonzero(other & ~tied)), int(np.count_nonzero(other & tied))
    axis = reference.axis
    if result.size and (result.min() < 0 or result.max() >= scores.shape[axis]):
        return int(result.size), 0
    ideal, chosen = (np.take_along_axis(scores, index, axis) for index in (best, result))
    if not reference.ordered:
        ideal, chosen = np.sort(ideal, axis), np.sort(chosen, axis)
    repeated = np.diff(np.sort(result, axis), axis=axis) == 0 if reference.kind == "order" else np.zeros(0)
    with np.errstate(invalid="ignore"):
        equal = (ideal == chosen) | (np.isnan(ideal) & np.isnan(chosen))
        tied = np.abs(ideal - chosen) <= limit
    return (
        int(np.count_nonzero(repeated)) + int(np.count_nonzero(~equal & ~tied)),
        int(np.count_nonzero(~equal & tied)),
    )


def _boxes(reference: Choice, own: Choice, kept: Array, limit: float, envelope: float, floor: float) -> int:
    """Return how many boxes were kept or dropped against the rule of greedy non-maximum suppression.

    Kept boxes are in the order of their scores and do not overlap; a dropped box overlaps a kept one of a higher score.
    """
    boxes, scores, count = reference.boxes, reference.scores, len(reference.scores)
    assert boxes is not None and own.boxes is not None
    if kept.size and (kept.min() < 0 or kept.max() >= count):
        return int(kept.size)
    rank = np.full(count, -1)
    rank[kept] = np.arange(kept.size)
    peak = 0.0
    for rows, columns, overlap in _near(boxes, kept):
        gap = overlaps(own.boxes[rows], own.boxes[kept[columns]]) - overlap
        peak = max(peak, float(np.max(np.abs(gap), initial=0.0)))
    slack = envelope * (2.0 * peak + floor)
    wrong = int(np.count_nonzero(np.diff(scores[kept]) > limit)) + kept.size - np.unique(kept).size
    for rows, columns, overlap in _near(boxes, kept):
        crossing = (overlap > reference.threshold + slack) & (columns < rank[rows][:, None])
        higher = scores[kept[columns]] >= scores[rows][:, None] - limit
        suppressed = ((overlap > reference.threshold - slack) & higher).any(axis=1)
        wrong += np.count_nonzero(crossing.any(axis=1)) + np.count_nonzero(~suppressed & (rank[rows] < 0))
    return int(wrong)


def _near(boxes: Array, kept: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Yield some boxes, the positions in ``kept`` of all that may overlap them, and how much they do.

    Detectors move the boxes of every class apart, so few of 10⁴ boxes may overlap.
    """
    order = np.argsort(boxes[:, 0])
    left, right = boxes[kept, 0], boxes[kept, 2]
    for start in range(0, len(order), BLOCK):
        rows = order[start : start + BLOCK]
        columns = np.flatnonzero((right >= boxes[rows, 0].min()) & (left <= boxes[rows, 2].max()))
        yield rows, columns, overlaps(boxes[rows], boxes[kept[columns]])


def overlaps(boxes: Array, others: Array) -> Array:
    """Return the intersection over union of every two boxes, shape [boxes, others]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=2)
    areas, other_areas = (np.prod(item[:, 2:] - item[:, :2], axis=1) for item in (boxes, others))
    whole = areas[:, None] + other_areas[None, :] - shared
    return np.asarray(shared / np.maximum(whole, np.finfo(np.float64).tiny))


def pairs(model: Sequence[Choice], graph: Sequence[Choice]) -> list[tuple[int, Choice]]:
    """Pair every choice of a graph with one of the model: of its kind and size, and of the nearest scores.

    Returns:
        For every choice of the graph the index of the model's, or -1, and the choice in the model's shape and sign.
    """
    from scipy.optimize import linear_sum_assignment  # heavy, and needed by few models

    found = {index: (-1, choice) for index, choice in enumerate(graph)}
    kinds = {(item.kind, item.scores.size, item.result.size if item.kind != "boxes" else 0) for item in graph}
    for kind, size, chosen in sorted(kinds):
        left, right = (
            [
                index
                for index, item in enumerate(items)
                if (item.kind, item.scores.size) == (kind, size) and (kind == "boxes" or item.result.size == chosen)
            ]
            for items in (model, graph)
        )
        if not left:
            continue
        if len(left) == len(right):  # most are made in the same order, and a detector makes hundreds
            straight = [_fit(model[one], graph[two]) for one, two in zip(left, right, strict=True)]
            if all(distance < SAME for distance, _ in straight):
                found.update(
                    zip(right, ((one, fit) for one, (_, fit) in zip(left, straight, strict=True)), strict=True)
                )
                continue
        fits = [[_fit(model[one], graph[two]) for two in right] for one in left]
        cost = np.array([[distance for distance, _ in row] for row in fits])
        order = 1e-9 * np.abs(np.arange(len(left))[:, None] - np.arange(len(right))[None, :])
        for one, two in zip(*linear_sum_assignment(cost + order), strict=True):
            same = len(left) == len(right) and _squeezed(model[left[one]]) == _squeezed(graph[right[two]])
            if same or cost[one, two] < ALIKE:
                found[right[two]] = (left[one], fits[one][two][1])
    return list(found.values())


def in_order(paired: Sequence[tuple[Choice, Choice] | None]) -> list[Choice | None]:
    """Return the second choice of each pair with its rows in the order of the first; None if they have no such order.

    Only steps have rows of their own. Rows are paired by what all choices with as many rows chose by.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    found: list[Choice | None] = [None] * len(paired)
    groups: dict[int, list[tuple[int, Choice, Choice]]] = defaultdict(list)
    for place, pair in enumerate(paired):
        if pair and pair[0].kind == pair[1].kind == "step" and pair[0].scores.ndim and pair[0].scores.size:
            groups[len(pair[0].scores)].append((place, *pair))
    for count, members in groups.items():
        left = np.concatenate([one.scores.reshape(count, -1) for _, one, _ in members], axis=1)
        right = np.concatenate([two.scores.reshape(count, -1) for _, _, two in members], axis=1)
        scale = np.sqrt(np.mean(np.square(left), axis=0)) + np.finfo(np.float64).tiny
        cost = cdist(left / scale, right / scale)
        if not np.isfinite(cost).all():
            continue
        _, order = linear_sum_assignment(cost)
        if _distance(right[order] / scale, left / scale) < ALIKE:
            for place, _, two in members:
                found[place] = replace(two, scores=two.scores[order], result=two.result[order])
    return found


def explained(reference: Choice, given: Choice, limit: float) -> Choice:
    """Return a step with the results of another run where the scores come within ``limit`` of them, else its own."""
    step = STEPS[reference.rule]
    low, high = step(reference.scores - limit), step(reference.scores + limit)
    fits = (low <= given.result) & (given.result <= high)
    return replace(given, result=np.where(fits, given.result, reference.result))


BLOCK = 256
"""Number of boxes whose overlaps are computed at a time."""

FEW_FLIPS = 3
"""As many choices near ties more than PyTorch's own run makes may be expected."""

SAME = 1e-5
"""Relative distance of scores below which two choices at the same place in their runs are the same."""

ALIKE = 0.1
"""Relative distance of scores below which two choices are the same, where their shapes and number do not tell."""


def _squeezed(choice: Choice) -> tuple[int, ...]:
    return tuple(size for size in choice.scores.shape if size != 1)


def _fit(model: Choice, graph: Choice) -> tuple[float, Choice]:
    """Return the relative distance of the scores, at most 2, and the graph's choice in the model's shape and sign."""
    scores = graph.scores.reshape(model.scores.shape)
    boxes = None if graph.boxes is None else graph.boxes.reshape(-1, 4)
    result = graph.result.reshape(-1 if model.kind == "boxes" else model.result.shape)
    distances = [_distance(sign * scores, model.scores) for sign in ((1, -1) if model.kind == "comparison" else (1,))]
    if model.kind == "comparison" and len(distances) == 2:
        reversed_ = distances[1] < distances[0]
        rule = _MIRRORED[graph.rule] if reversed_ else graph.rule
        if rule in _OPPOSITE[model.rule]:
            result = ~result
        scores = -scores if reversed_ else scores
    return min(distances), replace(graph, scores=scores, result=result, boxes=boxes)


_MIRRORED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge", "eq": "eq", "ne": "ne"}
_OPPOSITE = {"gt": "le lt", "ge": "lt le", "lt": "ge gt", "le": "gt ge", "eq": "ne", "ne": "eq"}


def _distance(left: Array, right: Array) -> float:
    finite = np.isfinite(left) & np.isfinite(right)
    size = float(np.linalg.norm(right[finite]))
    gap = float(np.linalg.norm(left[finite] - right[finite]))
    return min(2.0, gap / size) if size else min(2.0, gap)
