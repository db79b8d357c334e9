"""Statistics against SciPy, predictions and comparisons against values computed by hand."""

import re

import numpy as np
import pytest
from scipy.stats import binomtest

from deploy.core.errors import BackendError
from deploy.evaluation.accuracy import NO_DIFFERENCE, Accuracy, AccuracyComparison
from deploy.evaluation.predictions import Predictions
from deploy.evaluation.statistics import mcnemar, paired_difference, wilson


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (10, 10), (9, 10), (355, 359), (1, 2), (7610, 10000)])
def test_wilson(hits: int, total: int) -> None:
    expected = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert wilson(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_trials() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (5, 0), (6, 0), (10, 3), (3, 10), (40, 40), (900, 800)])
def test_mcnemar(lost: int, won: int) -> None:
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many() -> None:
    assert mcnemar(20_000, 30_000) < 1e-300 or mcnemar(20_000, 30_000) == 0.0


def test_paired_difference_covers() -> None:
    random = np.random.RandomState(0)
    inside = 0
    for _ in range(400):
        cells = random.multinomial(300, [0.03, 0.06, 0.91])
        low, high = paired_difference(int(cells[0]), int(cells[1]), 300)
        inside += low <= 0.03 <= high
    assert 0.92 <= inside / 400 <= 0.99


def test_predictions_from_logits() -> None:
    logits = np.array(
        [[0, 5, 1, 2, 3, 4, 9], [1, 1, 1, 1, 1, 1, 1], [np.nan, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, np.inf]],
        dtype=np.float32,
    )
    predictions = Predictions.from_logits(logits, np.array([1, 5, 1, 6]))
    assert predictions.predicted.tolist() == [6, 0, -1, -1]
    assert predictions.rank.tolist() == [1, 5, 7, 7], "of equal logits the first is predicted"
    assert predictions.confidence[1] == pytest.approx(1 / 7) and np.isnan(predictions.confidence[2:]).all()
    accuracy = Accuracy.of(predictions)
    assert (accuracy.top1, accuracy.top5, accuracy.not_finite, accuracy.images) == (0, 0.25, 2, 4)
    assert Accuracy.of(Predictions.from_logits(np.eye(3), np.arange(3))).top5 is None


@pytest.mark.parametrize("shape", [(2, 3, 1), (3, 4), (2,)])
def test_outputs_that_are_not_logits_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BackendError, match=re.escape(str(list(shape)))):
        Predictions.from_logits(np.zeros(shape), np.array([0, 1]))


def _predictions(correct: np.ndarray) -> Predictions:
    logits = np.where(correct, 1.0, -1.0)[:, None] * np.array([[1.0, -1.0]])
    return Predictions.from_logits(logits, np.zeros(len(correct), dtype=np.int64))


def test_comparison() -> None:
    reference = np.ones(1000, dtype=bool)
    worse = reference.copy()
    worse[:30] = False
    same = AccuracyComparison.of(_predictions(reference), _predictions(reference))
    assert (same.verdict, same.agreement, same.p_value, same.worse) == (NO_DIFFERENCE, 1.0, 1.0, False)
    lower = AccuracyComparison.of(_predictions(reference), _predictions(worse))
    assert lower.worse and "3.00" in lower.verdict and (lower.lost, lower.won) == (30, 0)
    assert lower.difference_interval[0] < lower.difference < lower.difference_interval[1] < 0
    better = AccuracyComparison.of(_predictions(worse), _predictions(reference))
    assert not better.worse and "3.00" in better.verdict
    few = worse.copy()
    few[5:] = True
    assert AccuracyComparison.of(_predictions(reference), _predictions(few)).verdict == NO_DIFFERENCE
