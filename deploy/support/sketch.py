"""A thousand numbers that stand for a tensor of any size, close enough to tell how far two tensors are apart.

A count sketch (Charikar, Chen, Farach-Colton 2002): elements are multiplied by fixed pseudo-random signs and summed
into buckets by index. Differences of sketches have, within a few percent, the norm of the difference of the tensors.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1024
MOMENTS = 3
_PERIOD = 1_048_573  # a prime: no power-of-two stride of a tensor lines up with it
_CHUNK = _PERIOD * 4

Array = NDArray[Any]


@cache
def _signs() -> NDArray[np.float64]:
    return np.random.default_rng(20_02).choice(np.array([-1.0, 1.0]), _PERIOD)


def sketch(value: Array) -> NDArray[np.float64]:
    """Sketch a float tensor.

    Args:
        value: any shape, any floating dtype.

    Returns:
        float64 [MOMENTS + BUCKETS]: mean, mean square and mean fourth power, which no change of layout alters,
        then the buckets, which do depend on the order of elements.
    """
    flat = np.ascontiguousarray(value).reshape(-1)
    buckets = np.zeros(BUCKETS)
    sums = np.zeros(MOMENTS)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        square = part * part
        sums += part.sum(), square.sum(), (square * square).sum()
        signed = part * np.resize(_signs(), part.size)  # chunks are whole periods: signs go by index
        padded = np.pad(signed, (0, -part.size % BUCKETS))
        rolled = padded.reshape(-1, BUCKETS).sum(axis=0)
        buckets += np.roll(rolled, start % BUCKETS)
    return np.concatenate([sums / max(flat.size, 1), buckets / np.sqrt(max(flat.size, 1))])


def distance(found: Array, reference: Array) -> float:
    """Root mean square of the difference of two tensors over that of the reference, from their sketches."""
    scale = float(np.linalg.norm(reference[MOMENTS:]))
    gap = float(np.linalg.norm(found[MOMENTS:] - reference[MOMENTS:]))
    return gap / scale if scale > 0 else (0.0 if gap == 0 else float("inf"))


def same_values(found: Array, reference: Array, tolerance: float) -> bool:
    """Whether two tensors hold the same values in any order, as far as their moments tell."""
    rms = float(np.sqrt(reference[1]))
    scales = np.array([max(rms, 1e-30), max(reference[1], 1e-30), max(reference[2], 1e-30)])
    return bool(np.all(np.abs(found[:MOMENTS] - reference[:MOMENTS]) <= tolerance * scales))
