"""Accuracy of predictions, and the comparison of two sets of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.core.plain import to_plain
from deploy.evaluation.predictions import Predictions
from deploy.evaluation.statistics import mcnemar, paired_difference, wilson

SIGNIFICANCE = 0.05
"""A difference is detectable if its p-value is smaller."""

TOP = 5
NO_DIFFERENCE = "no detectable difference"


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Shares in [0, 1] with their 95 % Wilson intervals.

    Attributes:
        top1: share of images whose predicted class is correct.
        top5: share of images whose correct class is among the five largest logits; None with five classes or fewer.
        confidence: mean softmax probability of the predicted class.
        not_finite: number of images with a NaN or infinite logit; they count as wrong.
    """

    images: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    top5_interval: tuple[float, float] | None
    confidence: float
    not_finite: int

    @property
    def value(self) -> float:
        """The metric that decides: top-1."""
        return self.top1

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        return self.top1_interval

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values: dict[str, Any] = to_plain(self)
        return values

    @classmethod
    def of(cls, predictions: Predictions) -> Accuracy:
        """Return the accuracy of predictions."""
        total = len(predictions.rank)
        first, five = int((predictions.rank == 0).sum()), int((predictions.rank < TOP).sum())
        has_top5 = predictions.classes > TOP
        finite = predictions.confidence[predictions.predicted >= 0]
        return cls(
            images=total,
            top1=first / total,
            top1_interval=wilson(first, total),
            top5=five / total if has_top5 else None,
            top5_interval=wilson(five, total) if has_top5 else None,
            confidence=float(finite.mean()) if len(finite) else 0.0,
            not_finite=total - len(finite),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyComparison:
    """A candidate compared with a reference on the same images.

    Attributes:
        agreement: share of images with the same predicted class, correct or not.
        difference: top-1 accuracy of the candidate minus that of the reference.
        lost: number of images that only the reference predicts correctly.
        won: number of images that only the candidate predicts correctly.
        p_value: exact McNemar test of ``lost`` and ``won``.
        confidence_shift: mean confidence of the candidate minus that of the reference, where both are finite.
        verdict: ``no detectable difference``, or the difference in percentage points.
    """

    agreement: float
    agreement_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    lost: int
    won: int
    p_value: float
    confidence_shift: float
    verdict: str

    @property
    def worse(self) -> bool:
        """Whether the candidate is detectably worse."""
        return self.p_value < SIGNIFICANCE and self.lost > self.won

    @classmethod
    def of(cls, reference: Predictions, candidate: Predictions) -> AccuracyComparison:
        """Compare predictions for the same images in the same order."""
        total = len(reference.predicted)
        same = int((reference.predicted == candidate.predicted).sum())
        lost = int((reference.correct & ~candidate.correct).sum())
        won = int((candidate.correct & ~reference.correct).sum())
        p_value = mcnemar(lost, won)
        difference = (won - lost) / total
        verdict = NO_DIFFERENCE
        if p_value < SIGNIFICANCE:
            verdict = f"{'worse' if lost > won else 'better'} by {abs(difference) * 100:.2f} points"
        both = (reference.predicted >= 0) & (candidate.predicted >= 0)
        shifts = candidate.confidence[both] - reference.confidence[both]
        return cls(
            agreement=same / total,
            agreement_interval=wilson(same, total),
            difference=difference,
            difference_interval=paired_difference(lost, won, total),
            lost=lost,
            won=won,
            p_value=p_value,
            confidence_shift=float(shifts.mean()) if both.any() else 0.0,
            verdict=verdict,
        )
