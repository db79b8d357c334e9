import numpy as np
import pytest

from deploy.support.sketch import distance, same_values, sketch


@pytest.mark.parametrize("shape", [(50,), (3, 64, 28, 28), (2, 1_100_000)])
@pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.5])
def test_distance_is_the_relative_difference(shape: tuple[int, ...], noise: float) -> None:
    rng = np.random.default_rng(0)
    value = rng.standard_normal(shape)
    other = value + noise * rng.standard_normal(shape)
    exact = np.linalg.norm(other - value) / np.linalg.norm(value)
    assert distance(sketch(other), sketch(value)) == pytest.approx(exact, rel=0.25)


def test_layout_changes_keep_the_moments_and_not_the_sketch() -> None:
    value = np.random.default_rng(0).standard_normal((4, 32, 16))
    moved = value.transpose(2, 0, 1)
    assert same_values(sketch(moved), sketch(value), 1e-9)
    assert distance(sketch(moved), sketch(value)) > 0.1
    swapped = value[:, np.r_[1, 0, 2:32]]
    assert distance(sketch(swapped), sketch(value)) > 0.1
