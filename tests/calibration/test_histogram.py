"""Histograms of a stream of values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.histogram import SIDE, Histogram

RNG = np.random.default_rng(0)
WIDE = np.concatenate([RNG.standard_normal(2000) * scale for scale in (1e-20, 1.0, 1e10)] + [[0.0] * 7])


def _of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part.astype(np.float32))
    return histogram


def _expected(values: np.ndarray, width: float) -> np.ndarray:
    bins = np.floor(values.astype(np.float32).astype(np.float64) / width).astype(int) + SIDE
    return np.bincount(bins, minlength=2 * SIDE)


@pytest.mark.parametrize("values", [WIDE, np.maximum(WIDE, 0), RNG.standard_normal(5000), np.zeros(10)])
def test_it_equals_a_histogram_over_all_values_at_once(values: np.ndarray) -> None:
    whole = _of(values)
    assert np.array_equal(whole.counts, _expected(values, whole.width))
    assert whole.total == whole.counts.sum() == len(values)
    assert (whole.low, whole.high) == (values.astype(np.float32).min(), values.astype(np.float32).max())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), parts=st.integers(1, 40))
def test_order_and_batches_do_not_matter(seed: int, parts: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(WIDE)
    one, other = _of(WIDE), _of(*np.array_split(shuffled, parts))
    assert np.array_equal(one.counts, other.counts) and one.exponent == other.exponent


def test_the_largest_magnitude_is_in_the_outer_half_of_the_bins() -> None:
    for largest in (1.0, 1.999, 3e-30, 7e30):
        assert SIDE / 2 <= largest / _of(np.array([largest])).width <= SIDE


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN" if np.isnan(bad) else "infinite"):
        _of(np.array([1.0, bad]))


def test_a_copy_is_independent() -> None:
    first = _of(RNG.standard_normal(100))
    copy = first.copy()
    first.add(np.full(10, 1e6, np.float32))
    assert copy.total == 100 and copy.high < 10 and copy.counts.sum() == 100 and copy.exponent < first.exponent


def test_memory_does_not_grow() -> None:
    histogram = Histogram()
    for scale in (1, 1e5, 1e-5, 1e20):
        histogram.add(RNG.standard_normal(10_000).astype(np.float32) * np.float32(scale))
        assert histogram.counts.nbytes == 2 * SIDE * 8
