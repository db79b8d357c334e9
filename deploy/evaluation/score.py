"""The score of a task other than classification, with its bootstrap interval, and the comparison of two scores.

The images are the sample: each resample draws as many images, with replacement, and the metric is computed anew. All
scores of the same images use the same resamples, so that two of them can be compared image by image (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.evaluation.accuracy import NO_DIFFERENCE

SEED = 0
"""Seed of the resamples."""
RESAMPLES = 1000
FEWEST = 200
WORK = 4_000_000
"""Images times classes times resamples; there are fewer resamples where it is exceeded, down to `FEWEST`."""


def resamples(images: int, classes: int, most: int = RESAMPLES) -> NDArray[np.int64]:
    """Return the images of at most ``most`` resamples, [resamples, images]; the same for the same numbers."""
    count = min(most, max(FEWEST, WORK // max(1, images * classes)))
    return np.random.RandomState(SEED).randint(images, size=(count, images))


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How well a model does its task, as shares in [0, 1].

    Attributes:
        metric: ``mAP`` (COCO, overlaps 0.5 to 0.95; of boxes), ``mask mAP``, or ``mIoU``.
        value: the metric.
        interval: its 95 % percentile interval over resamples of the images.
        second_metric, second: ``mAP50`` (at an overlap of 0.5), ``mAP`` (of boxes), or ``pixel accuracy``.
        second_interval: as ``interval``.
        per_class: the metric of every class that the images show.
        not_finite: number of images with an output that is NaN or infinite; they count as if nothing was found.
        draws: the metric of every resample; not part of the record.
    """

    images: int
    metric: str
    value: float
    interval: tuple[float, float]
    second_metric: str
    second: float
    second_interval: tuple[float, float]
    per_class: Mapping[str, float]
    not_finite: int
    draws: NDArray[np.float64] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return {
            "images": self.images,
            "metric": self.metric,
            "value": self.value,
            "interval": list(self.interval),
            "second_metric": self.second_metric,
            "second": self.second,
            "second_interval": list(self.second_interval),
            "per_class": dict(self.per_class),
            "not_finite": self.not_finite,
            "resamples": len(self.draws),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreComparison:
    """A candidate compared with a reference on the same images.

    Attributes:
        difference: score of the candidate minus that of the reference.
        difference_interval: its 95 % percentile interval; both are computed on the same resampled images.
        verdict: ``no detectable difference``, or the difference in points.
    """

    difference: float
    difference_interval: tuple[float, float]
    verdict: str

    @property
    def worse(self) -> bool:
        """Whether the candidate is detectably worse."""
        return self.difference_interval[1] < 0

    @classmethod
    def of(cls, reference: Score, candidate: Score) -> ScoreComparison:
        """Compare scores of the same images."""
        low, high = percentiles(candidate.draws - reference.draws)
        difference = candidate.value - reference.value
        verdict = NO_DIFFERENCE
        if low > 0 or high < 0:
            verdict = f"{'worse' if high < 0 else 'better'} by {abs(difference) * 100:.2f} points"
        return cls(difference=difference, difference_interval=(low, high), verdict=verdict)


def percentiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5 % and the 97.5 % percentile."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
