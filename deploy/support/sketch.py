"""Summarize a tensor of any size in a thousand numbers that suffice to estimate the distance of two tensors.

A count sketch (Charikar, Chen, Farach-Colton 2002): elements are multiplied by fixed pseudo-random signs and summed
into buckets by index. The norm of the difference of two sketches equals that of the tensors within a few percent.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1024
MOMENTS = 3
_PERIOD = 1_048_573  # a prime, so that it does not align with the strides of tensors
_CHUNK = _PERIOD * 4

Array = NDArray[Any]


@cache
def _signs() -> NDArray[np.float64]:
    return np.random.default_rng(20_02).choice(np.array([-1.0, 1.0]), _PERIOD)


def sketch(value: Array) -> NDArray[np.float64]:
    """Sketch a float tensor of any shape and floating dtype.

    Returns:
        float64 [MOMENTS + BUCKETS]: mean, mean square and mean fourth power, which do not depend on the order of
        elements, then the buckets, which do.
    """
    flat = np.ascontiguousarray(value).reshape(-1)
    buckets = np.zeros(BUCKETS)
    sums = np.zeros(MOMENTS)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        square = part * part
        sums += part.sum(), square.sum(), (square * square).sum()
        signed = part * np.resize(_signs(), part.size)  # chunks are whole periods, so signs depend on the index only
        padded = np.pad(signed, (0, -part.size % BUCKETS))
        rolled = padded.reshape(-1, BUCKETS).sum(axis=0)
        buckets += np.roll(rolled, start % BUCKETS)
    return np.concatenate([sums / max(flat.size, 1), buckets / np.sqrt(max(flat.size, 1))])


def distance(found: Array, reference: Array) -> float:
    """Estimate the RMS difference of two tensors relative to the RMS of the reference, from their sketches."""
    scale = float(np.linalg.norm(reference[MOMENTS:]))
    gap = float(np.linalg.norm(found[MOMENTS:] - reference[MOMENTS:]))
    return gap / scale if scale > 0 else (0.0 if gap == 0 else float("inf"))


def same_values(found: Array, reference: Array, tolerance: float) -> bool:
    """Estimate from the moments of two sketches whether the tensors have the same values in any order."""
    rms = float(np.sqrt(reference[1]))
    scales = np.array([max(rms, 1e-30), max(reference[1], 1e-30), max(reference[2], 1e-30)])
    return bool(np.all(np.abs(found[:MOMENTS] - reference[:MOMENTS]) <= tolerance * scales))
