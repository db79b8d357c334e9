"""From logits and labels to answers, from answers to accuracy, from two sets of answers to a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import BackendError
from deploy.evaluation.statistics import mcnemar, paired_difference, wilson

SIGNIFICANCE = 0.05
TOP = 5
NO_DIFFERENCE = "no detectable difference"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one runner said of each image.

    Attributes:
        choice: class with the largest logit, int64; of several the first; -1 where a logit is not finite.
        rank: how many classes come before the right one, int64; 0 is a right answer. The number of classes
            where a logit is not finite.
        confidence: softmax probability of the choice, float64; NaN where a logit is not finite.
        classes: how many the runner tells apart.
    """

    choice: NDArray[np.int64]
    rank: NDArray[np.int64]
    confidence: NDArray[np.float64]
    classes: int

    @classmethod
    def judge(cls, logits: NDArray[Any], labels: NDArray[np.int64]) -> Answers:
        """Answers of one batch.

        Args:
            logits: (N, classes), any float dtype.
            labels: (N,), each in ``range(classes)``.

        Raises:
            BackendError: the logits are not one row of numbers an image.
        """
        if logits.ndim != 2 or len(logits) != len(labels):
            raise BackendError(
                f"an output of shape {list(logits.shape)} is not a row of logits for each of {len(labels)} images."
            )
        count = logits.shape[1]
        finite = np.isfinite(logits).all(axis=1)
        values = np.where(finite[:, None], logits, 0).astype(np.float64)
        right = np.take_along_axis(values, labels[:, None], axis=1)
        before = np.arange(count) < labels[:, None]
        rank = (values > right).sum(axis=1) + ((values == right) & before).sum(axis=1)
        confidence = 1 / np.exp(values - values.max(axis=1, keepdims=True)).sum(axis=1)
        return cls(
            choice=np.where(finite, values.argmax(axis=1), -1),
            rank=np.where(finite, rank, count),
            confidence=np.where(finite, confidence, np.nan),
            classes=count,
        )

    @classmethod
    def join(cls, parts: Sequence[Answers]) -> Answers:
        """Answers of several batches, in order."""
        return cls(
            choice=np.concatenate([part.choice for part in parts]),
            rank=np.concatenate([part.rank for part in parts]),
            confidence=np.concatenate([part.confidence for part in parts]),
            classes=parts[0].classes,
        )

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right."""
        right: NDArray[np.bool_] = self.rank == 0
        return right


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Shares in [0, 1] with their 95 % Wilson intervals.

    Attributes:
        images: how many were judged.
        top5: None where there are no more than five classes, or it would say nothing.
        confidence: mean softmax probability of the choice.
        not_finite: images with a logit that is NaN or infinite; they count as wrong.
    """

    images: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    top5_interval: tuple[float, float] | None
    confidence: float
    not_finite: int

    @classmethod
    def of(cls, answers: Answers) -> Accuracy:
        """Count the right answers."""
        total = len(answers.rank)
        first, five = int((answers.rank == 0).sum()), int((answers.rank < TOP).sum())
        told = answers.classes > TOP
        known = answers.confidence[answers.choice >= 0]
        return cls(
            images=total,
            top1=first / total,
            top1_interval=wilson(first, total),
            top5=five / total if told else None,
            top5_interval=wilson(five, total) if told else None,
            confidence=float(known.mean()) if len(known) else 0.0,
            not_finite=total - len(known),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyComparison:
    """A candidate against a reference on the same images.

    Attributes:
        agreement: share of images with the same choice, right or wrong.
        difference: top-1 of the candidate minus that of the reference.
        difference_interval: of it, 95 %, paired.
        lost: images that only the reference gets right.
        won: images that only the candidate gets right.
        p_value: exact McNemar test of ``lost`` against ``won``.
        confidence_shift: mean confidence of the candidate minus that of the reference, where both are finite.
        verdict: ``no detectable difference``, or the difference in words.
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
    def of(cls, reference: Answers, candidate: Answers) -> AccuracyComparison:
        """Compare the answers to the same images in the same order."""
        total = len(reference.choice)
        same = int((reference.choice == candidate.choice).sum())
        lost = int((reference.right & ~candidate.right).sum())
        won = int((candidate.right & ~reference.right).sum())
        p_value = mcnemar(lost, won)
        difference = (won - lost) / total
        verdict = NO_DIFFERENCE
        if p_value < SIGNIFICANCE:
            verdict = f"{'worse' if lost > won else 'better'} by {abs(difference) * 100:.2f} points"
        both = (reference.choice >= 0) & (candidate.choice >= 0)
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
