"""Models that choose: a detector keeps the boxes above a score, in order of score, and near ties rounding decides.

What is chosen comes in rows: the first axis of every output counts boxes, or samples. Each row of the float64 run is
paired with the row of another run that has the same integers and the nearest floats. Rows without a partner are choices
that rounding, or a fault, decided otherwise; rows with one are compared as samples are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.runner import Fetches

Array = NDArray[Any]

NEAR = {"fp32": 1e-3, "fp16": 2e-2}
"""Floats of a row that are further apart, relative, are no partners: far more than rounding moves them, and less than
the distance of neighboring boxes of one label, which overlap by half at the most (a box of 16 pixels is then 5 pixels
away, in pictures of 800)."""

SMALL = 64
"""Values of a row that are looked at to find its partner; masks are not."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which row of a run belongs to which of the reference.

    Attributes:
        partner: int64, for each row of the reference the row of the run, or -1.
        alone: rows of either without a partner.
    """

    partner: NDArray[np.int64]
    alone: int


def as_rows(outputs: Fetches) -> Fetches:
    """Outputs whose first axes agree, as they are; others as a single row."""
    sizes = {value.shape[:1] for value in outputs.values()}
    if len(sizes) == 1 and sizes != {()}:
        return outputs
    return {name: value[np.newaxis] for name, value in outputs.items()}


def pair(expected: Fetches, found: Fetches, precision: str, *, ordered: bool) -> Pairing:
    """Pair the rows of a run with those of the reference.

    Args:
        expected: the reference, in rows.
        found: the run, in rows; outputs of the same names.
        precision: decides how near partners are (`NEAR`).
        ordered: rows are samples: each has its partner in its own place or none.
    """
    total, others = (len(next(iter(outputs.values()))) for outputs in (expected, found))
    partner = np.full(total, -1, np.int64)
    if ordered and total != others:
        return Pairing(partner, total + others)
    distance = _distances(expected, found, total, others, NEAR[precision])
    if ordered:
        distance[~np.eye(total, dtype=bool)] = np.inf
    left, right = np.unravel_index(np.argsort(distance, axis=None, kind="stable"), distance.shape)
    taken: set[int] = set()
    for here, there in zip(left.tolist(), right.tolist(), strict=True):
        if not np.isfinite(distance[here, there]):
            break
        if partner[here] < 0 and there not in taken:
            partner[here] = there
            taken.add(there)
    return Pairing(partner, total + others - 2 * len(taken))


def _distances(expected: Fetches, found: Fetches, total: int, others: int, limit: float) -> Array:
    """The relative distance of every row from every row; infinite where they cannot be partners."""
    distance = np.zeros((total, others))
    for name, reference in expected.items():
        value = found[name]
        if value.shape[1:] != reference.shape[1:]:
            return np.full((total, others), np.inf)
        width = int(np.prod(reference.shape[1:], dtype=np.int64))
        here, there = reference.reshape(total, width), value.reshape(others, width)
        if not np.issubdtype(reference.dtype, np.floating):
            distance[(here[:, None, :] != there[None, :, :]).any(axis=2)] = np.inf
        elif here.shape[1] <= SMALL:
            wide = here.astype(np.float64)
            gap = np.linalg.norm(wide[:, None, :] - there[None, :, :].astype(np.float64), axis=2)
            size = np.linalg.norm(wide, axis=1)[:, None]
            distance += np.where(gap <= limit * size, gap / np.maximum(size, np.finfo(np.float64).tiny), np.inf)
    return distance
