"""Every statistic on data whose best range is known."""

import numpy as np
import pytest

from calibration.grid import Grid
from calibration.histogram import Histogram
from calibration.statistics import entropy, minmax, mse, percentile
from calibration.table import STATISTICS
from deploy.core import registry

UNSIGNED, SIGNED = Grid(symmetric=False), Grid(symmetric=True)
RNG = np.random.default_rng(3)
NORMAL = RNG.standard_normal(200_000).astype(np.float32)
OUTLIER = np.concatenate([NORMAL, [400.0]]).astype(np.float32)


def _histogram(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


@pytest.mark.parametrize("name", registry.names(STATISTICS))
@pytest.mark.parametrize("grid", [UNSIGNED, SIGNED], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize(
    "values",
    [NORMAL, np.maximum(NORMAL, 0), -np.abs(NORMAL), np.zeros(50), np.full(50, 2.0), np.full(50, -3e-30), OUTLIER],
    ids=["normal", "relu", "negative", "zeros", "constant", "tiny", "outlier"],
)
def test_a_range_contains_zero_lies_within_the_data_and_is_finite(name: str, grid: Grid, values: np.ndarray) -> None:
    low, high = registry.load(STATISTICS, name).choose(_histogram(values.astype(np.float32)), grid)
    widest = grid.around(float(values.min()), float(values.max()))
    assert np.isfinite([low, high]).all() and low <= 0 <= high
    assert widest[0] * (1 + 1e-6) <= low and high <= widest[1] * (1 + 1e-6)
    if grid.symmetric:
        assert low == -high
    assert (low, high) != (0, 0) or not values.any()


def test_minmax_keeps_an_outlier_and_others_clip_it() -> None:
    histogram = _histogram(OUTLIER)
    assert minmax.choose(histogram, UNSIGNED)[1] == 400
    for statistic in (percentile, entropy):  # not mse: clipping it would cost more than coarse steps
        assert statistic.choose(histogram, UNSIGNED)[1] < 100, statistic.__name__


def test_percentile_clips_one_in_ten_thousand_at_each_end() -> None:
    low, high = percentile.choose(_histogram(NORMAL), UNSIGNED)
    assert low == pytest.approx(np.quantile(NORMAL, 1e-4), abs=0.01)
    assert high == pytest.approx(np.quantile(NORMAL, 1 - 1e-4), abs=0.01)


@pytest.mark.parametrize("grid", [UNSIGNED, SIGNED], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("values", [NORMAL, np.maximum(NORMAL, 0), RNG.laplace(size=100_000).astype(np.float32)])
def test_mse_finds_the_minimum_error_of_the_data(grid: Grid, values: np.ndarray) -> None:
    full = minmax.choose(_histogram(values), grid)

    def error(span: tuple[float, float]) -> float:
        wide = values.astype(np.float64)
        return float(np.mean((grid.round(wide, span) - wide) ** 2))

    best = min(error((full[0] * share, full[1] * share)) for share in np.linspace(0.05, 1, 400))
    assert error(mse.choose(_histogram(values), grid)) <= 1.03 * best


def test_entropy_keeps_the_whole_range_of_a_uniform_distribution() -> None:
    even = RNG.uniform(0, 1, 200_000).astype(np.float32)
    assert entropy.choose(_histogram(even), UNSIGNED)[1] > 0.97


def test_rounding_to_a_grid() -> None:
    assert UNSIGNED.round(np.array([-1.0, 0.0, 0.501, 9.0]), (0.0, 255.0)).tolist() == [0, 0, 1, 9]
    assert SIGNED.round(np.array([-300.0, 0.4, 126.6, 300.0]), (-127.0, 127.0)).tolist() == [-127, 0, 127, 127]
    assert UNSIGNED.around(2.0, 3.0) == (0.0, 3.0) and SIGNED.around(-1.0, 3.0) == (-3.0, 3.0)
