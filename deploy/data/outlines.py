"""Masks of single objects as COCO has them: polygons, or run lengths (cocodataset.org, "Data format")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError

SLACK = 1.0
"""Pixels by which a box or an outline may exceed its picture, from rounding."""
FEWEST = 6
"""Numbers of the smallest polygon: three points."""

Outline = dict[str, Any] | list[list[float]]
"""One mask, in the form of COCO's ``segmentation``.

Polygons: each a list x1, y1, x2, y2, … in pixels. Run lengths: ``size``, height and width, and ``counts``, the lengths
of runs of zeros and ones in turn, down the columns from the left, as a list or as COCO's compressed text.
"""


def run_lengths(mask: NDArray[np.bool_]) -> Outline:
    """Return the run lengths of a mask [h, w]."""
    pixels = np.concatenate([[False], mask.T.reshape(-1)])  # the first run is of zeros
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def read_outline(value: object, size: tuple[int, int]) -> Outline:
    """Return COCO's ``segmentation`` of an object in a picture of some height and width.

    Raises:
        DataError: it is neither polygons in the picture nor run lengths of its size.
    """
    if isinstance(value, dict):
        return _read_runs(value, size)
    if not isinstance(value, list) or not value:
        raise DataError("is neither polygons nor run lengths")
    return [_read_polygon(item, size) for item in value]


def _read_polygon(value: object, size: tuple[int, int]) -> list[float]:
    if not isinstance(value, list) or len(value) < FEWEST or len(value) % 2:
        raise DataError("has a polygon that is not a list of three or more points")
    if not all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value):
        raise DataError("has a polygon with a value that is no number")
    height, width = size
    try:
        points = np.asarray(value, np.float64).reshape(-1, 2)
    except OverflowError:  # an integer beyond all floats
        points = np.full((1, 2), np.inf)
    if not ((points >= -SLACK) & (points <= [width + SLACK, height + SLACK])).all():  # False for NaN
        raise DataError(f"has a polygon outside the picture of {width} x {height} pixels")
    polygon: list[float] = points.reshape(-1).tolist()
    return polygon


def _read_runs(value: dict[str, Any], size: tuple[int, int]) -> Outline:
    counts = value.get("counts")
    if value.get("size") != list(size):
        raise DataError(f"is of a picture of the size {value.get('size')!r}, and this one has {list(size)}")
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(item) is int and item >= 0 for item in runs):
        raise DataError("has run lengths that are not a list of whole numbers or COCO's compressed text")
    if sum(runs) != size[0] * size[1]:
        raise DataError(f"has run lengths of {sum(runs)} pixels, and the picture has {size[0] * size[1]}")
    return {"size": list(size), "counts": counts}


def _decompressed(text: str) -> Sequence[int] | None:
    """Return the run lengths in COCO's compressed text, None if it is not such a text.

    Characters from "0" on have six bits each: five of a number, the lowest ones first, and one that says whether more
    follow. From the fourth number on, the one before the last is taken off.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64 or shift > 60:
            return None
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    return runs if shift == 0 else None
