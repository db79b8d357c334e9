"""How often a file may choose otherwise near ties."""

from collections.abc import Callable

import numpy as np
import pytest

from deploy.parity.choices import Choice, explained, in_order, otherwise, unexplained

RNG = np.random.default_rng(5)
SCORES = np.sort(RNG.standard_normal(4000))
NOISE = RNG.standard_normal(4000) * 1e-5


def _order(scores: np.ndarray) -> Choice:
    return Choice(kind="order", scores=scores, result=np.argsort(-scores)[:1000], axis=0)


def _sides(scores: np.ndarray) -> Choice:
    return Choice(kind="comparison", rule="gt", scores=scores, result=scores > 0)


@pytest.mark.parametrize(("choose", "scores"), [(_order, SCORES), (_sides, SCORES * 1e-3)])
def test_near_ties_may_be_decided_otherwise_as_often_as_noise_allows(
    choose: Callable[[np.ndarray], Choice], scores: np.ndarray
) -> None:
    """A constant or tiny input makes all positions alike, so that many scores are near ties."""
    reference, own, noisy = choose(scores), choose(scores + NOISE), choose(scores + 16 * NOISE[::-1])
    assert not unexplained(reference, own, own, "fp32", "unit")
    assert unexplained(reference, own, noisy, "fp32", "unit")
    for group in ("tiny", "constant"):
        assert not unexplained(reference, own, noisy, "fp32", group)
        assert unexplained(reference, own, choose(scores + 4000 * NOISE[::-1]), "fp32", group)
        assert unexplained(reference, own, choose(-scores), "fp32", group)


def _cut(scores: np.ndarray) -> Choice:
    return Choice(kind="step", rule="trunc", scores=scores, result=np.trunc(scores))


def test_rows_in_another_order_are_paired_by_all_that_they_chose_by() -> None:
    """One column alone would not tell the rows apart."""
    boxes, levels = RNG.uniform(0, 300, (100, 4)), np.repeat([2.0, 3.0], 50)
    order = RNG.permutation(100)
    noise = RNG.standard_normal((100, 4)) * 1e-4
    pairs = [(_cut(boxes), _cut((boxes + noise)[order])), (_cut(levels), _cut(levels[order])), None]
    one, two, three = in_order(pairs)
    assert one is not None and two is not None and three is None
    np.testing.assert_array_equal(one.scores, boxes + noise)
    np.testing.assert_array_equal(one.result, np.trunc(boxes + noise))
    np.testing.assert_array_equal(two.result, levels)


def test_steps_that_rounding_does_not_explain_are_not_taken() -> None:
    scores = np.array([1.9999, 1.5, 3.00001, 7.0])
    taken = explained(_cut(scores), _cut(np.array([2.0001, 2.5, 2.99999, 9.0])), 1e-3)
    assert taken.result.tolist() == [2.0, 1.0, 2.0, 7.0]


def test_other_rows_are_not_paired() -> None:
    left, right = _cut(RNG.uniform(0, 300, (10, 4))), _cut(RNG.uniform(0, 300, (10, 4)))
    assert in_order([(left, right)]) == [None]
    infinite = _cut(np.full((10, 4), np.inf))
    assert in_order([(left, infinite), (_sides(SCORES), _sides(SCORES))]) == [None, None]


def test_a_step_of_a_whole_number_is_no_tie() -> None:
    whole, near = np.array([2.0, 320.0]), np.array([2.0, 320.0 - 1e-9])
    assert otherwise(_cut(whole), _cut(whole), "fp32", "unit")[1] == 0
    changed, ties = otherwise(_cut(near), _cut(near + 1e-6), "fp32", "unit")
    assert ties == 2 and changed.result.tolist() == [1.0, 320.0]
