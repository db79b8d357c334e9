"""How often a file may choose otherwise near ties."""

from collections.abc import Callable

import numpy as np
import pytest

from deploy.parity.choices import Choice, unexplained

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
