"""Mean intersection over union of the classes of pixels, and pixel accuracy, from confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deploy.data.truth import IGNORED
from deploy.evaluation.score import RESAMPLES, Score, percentiles, resamples

_CHUNK = 100
"""Resamples that are computed at once."""


def confusion(predicted: NDArray[np.int64], pixels: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Return how many pixels of each class (rows) are predicted as each class (columns), [classes, classes + 1].

    The last column counts pixels without a prediction, -1. Pixels that are `IGNORED` are not counted.
    """
    counted = pixels != IGNORED
    guess = np.where(predicted < 0, classes, predicted)[counted]
    index = pixels[counted].astype(np.int64) * (classes + 1) + guess
    return np.bincount(index, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def mean_overlap(
    matrices: Sequence[NDArray[np.int64]], classes: Sequence[str], not_finite: int = 0, most: int = RESAMPLES
) -> Score:
    """Return the mIoU of all pixels, with intervals over resamples of the images.

    Args:
        matrices: `confusion` of every image.
        classes: names of the classes. One that no pixel has and none is predicted as does not count.
        not_finite: number of images with outputs that are not finite.
        most: number of resamples.
    """
    stacked = np.stack(matrices).astype(np.float64).reshape(len(matrices), -1)
    shape = (-1, len(classes), len(classes) + 1)
    drawn = resamples(len(matrices), len(classes), most)
    draws = []
    for start in range(0, len(drawn), _CHUNK):
        times = np.stack([np.bincount(indices, minlength=len(matrices)) for indices in drawn[start : start + _CHUNK]])
        draws.append(_summary((times @ stacked).reshape(shape)))
    values = np.concatenate(draws, axis=1)
    total = stacked.sum(axis=0).reshape(shape)
    mean, accuracy = (float(item[0]) for item in _summary(total))
    each = _overlaps(total)[0]
    return Score(
        images=len(matrices),
        metric="mIoU",
        value=mean,
        interval=percentiles(values[0]),
        second_metric="pixel accuracy",
        second=accuracy,
        second_interval=percentiles(values[1]),
        per_class={name: float(share) for name, share in zip(classes, each, strict=True) if not np.isnan(share)},
        not_finite=not_finite,
        draws=values[0],
    )


def _overlaps(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of each class, [n, classes]; NaN for a class that does not occur."""
    own = np.diagonal(matrices, axis1=1, axis2=2)
    union = matrices.sum(axis=2) + matrices[:, :, :-1].sum(axis=1) - own
    return np.where(union > 0, own / np.maximum(union, 1), np.nan)


def _summary(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mIoU and pixel accuracy, [2, n]."""
    each, own = _overlaps(matrices), np.diagonal(matrices, axis1=1, axis2=2).sum(axis=1)
    return np.stack([np.nanmean(each, axis=1), own / np.maximum(matrices.sum(axis=(1, 2)), 1)])
