"""Match the rows of two runs of a model whose number of rows depends on the data, such as a detector.

A detector keeps the boxes above a score threshold, sorted by score, and near ties rounding decides. A row is one index
of the first axis of every output: a box. Each row of the float64 run is matched with the row of another
run that has equal integers and the nearest floats. Unmatched rows are decisions that rounding, or a fault, made
differently. Matched rows are compared in the same way as samples. Where the choices of the file can be compared with
those of the model, rows are compared in place instead, see `deploy.parity.choices`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.runner import Fetches

Array = NDArray[Any]

MATCH_TOLERANCE = {"fp64": 1e-3, "fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
"""Maximum relative distance between the floats of matched rows. It is far more than rounding moves them, and less than
the distance between neighboring boxes of one label, which overlap by half at most (a box of 16 pixels is then 5 pixels
away, in images of 800)."""

MAX_ROW_VALUES = 64
"""Float outputs with more values per row than this, such as masks, are not used for matching."""


def match_rows(expected: Fetches, actual: Fetches, precision: str) -> tuple[NDArray[np.int64], int]:
    """Match the rows of a run with those of the reference, nearest first.

    Returns:
        For each row of the reference the matching row of the run, or -1; the number of rows without a match, in both.
    """
    total, others = (len(next(iter(outputs.values()))) for outputs in (expected, actual))
    index = np.full(total, -1, np.int64)
    distance = _distances(expected, actual, total, others, MATCH_TOLERANCE[precision])
    left, right = np.unravel_index(np.argsort(distance, axis=None, kind="stable"), distance.shape)
    matched: set[int] = set()
    for row, other in zip(left.tolist(), right.tolist(), strict=True):
        if not np.isfinite(distance[row, other]):
            break
        if index[row] < 0 and other not in matched:
            index[row] = other
            matched.add(other)
    return index, total + others - 2 * len(matched)


def _distances(expected: Fetches, actual: Fetches, total: int, others: int, tolerance: float) -> Array:
    """Return the relative distance between every two rows; infinite where they cannot match."""
    distance = np.zeros((total, others))
    for name, reference in expected.items():
        value = actual[name]
        if value.shape[1:] != reference.shape[1:]:
            return np.full((total, others), np.inf)
        width = int(np.prod(reference.shape[1:], dtype=np.int64))
        rows, other_rows = reference.reshape(total, width), value.reshape(others, width)
        if not np.issubdtype(reference.dtype, np.floating):
            distance[(rows[:, None, :] != other_rows[None, :, :]).any(axis=2)] = np.inf
        elif width <= MAX_ROW_VALUES:
            wide = rows.astype(np.float64)
            gap = np.linalg.norm(wide[:, None, :] - other_rows[None, :, :].astype(np.float64), axis=2)
            size = np.linalg.norm(wide, axis=1)[:, None]
            distance += np.where(gap <= tolerance * size, gap / np.maximum(size, np.finfo(np.float64).tiny), np.inf)
    return distance
