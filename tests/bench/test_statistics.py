"""What may be said of latencies."""

import math

import numpy as np
import pytest
from scipy import stats

from deploy.bench.sequential import LOOKS, guard, interval_at, paired, verdict_of
from deploy.bench.statistics import Interval, geometric, ratio, summarize, unpaired_ratio


def test_the_interval_is_students_on_logarithms() -> None:
    values = [1.0, 1.1, 1.05, 0.97, 1.02]
    found = geometric(values)
    logs = np.log(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=logs.mean(), scale=stats.sem(logs))
    assert (found.low, found.value, found.high) == pytest.approx((math.exp(low), math.exp(logs.mean()), math.exp(high)))


def test_one_process_says_nothing_of_others() -> None:
    assert (geometric([3.0]).low, geometric([3.0]).high) == (0.0, math.inf)


def test_intervals_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    draws = np.exp(rng.normal(0.0, 0.02, (2000, 5)))
    held = np.mean([found.low <= 1.0 <= found.high for found in map(geometric, draws)])
    assert 0.935 <= held <= 0.965


def test_quantiles_are_told_only_where_there_are_samples_beyond_them() -> None:
    few = summarize([np.arange(1, 100), np.arange(1, 100)])
    assert few.quantiles["p90"] is not None and few.quantiles["p95"] is None and few.quantiles["p99"] is None
    many = summarize([np.arange(1, 501), np.arange(501, 1001)])
    assert many.quantiles["p99"] == pytest.approx(990.01)
    assert (many.minimum, many.mean, many.samples, many.processes) == (1.0, 500.5, 1000, 2)


def test_what_all_processes_share_does_not_widen_a_ratio() -> None:
    drift = np.array([1.0, 2.0, 3.0, 1.5, 5.0])
    found = ratio(drift, drift * [1.05, 1.04, 1.05, 1.06, 1.05])
    assert 1.03 < found.low < 1.05 < found.high < 1.07


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.001, 1.2, "slower"),
        (0.8, 0.999, "faster"),
        (0.985, 1.019, "no difference"),
        (1.001, 1.015, "no difference"),
        (0.97, 1.01, "cannot tell"),
        (0.0, math.inf, "cannot tell"),
    ],
)
def test_verdicts(low: float, high: float, said: str) -> None:
    assert verdict_of(Interval(value=1.0, low=low, high=high), 0.02) == said


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (1.01, 0.99, 1.029, "pass"),
        (1.04, 1.01, 1.07, "fail"),
        (1.02, 1.01, 1.031, "inconclusive"),
        (1.04, 0.99, 1.09, "inconclusive"),
    ],
)
def test_the_guard_of_a_bound(value: float, low: float, high: float, said: str) -> None:
    assert guard(Interval(value=value, low=low, high=high), 0.03) == said


def test_looking_several_times_does_not_call_equals_different() -> None:
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(1000):
        ratios = np.exp(rng.normal(0.0, 0.02, LOOKS[-1]))
        called += any(
            not (found.low <= 1.0 <= found.high) for found in (interval_at(ratios[:count]) for count in LOOKS)
        )
    assert called <= 30


def test_what_lasts_longer_than_a_turn_hits_both_and_what_is_shorter_spoils_one() -> None:
    drift = np.linspace(1.0, 4.0, 21)
    second = drift * 1.03
    second[4] *= 10
    assert paired(drift, second) == pytest.approx(1.03)


def test_a_ratio_of_what_was_not_taken_side_by_side_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(2000):
        first = np.exp(0.05 * rng.standard_normal(5))
        second = 1.3 * np.exp(0.15 * rng.standard_normal(7))
        found = unpaired_ratio(list(first), list(second))
        held += found.low <= 1.3 <= found.high
    assert 0.935 <= held / 2000 <= 0.965


def test_a_ratio_with_one_repetition_on_a_side_knows_no_ends() -> None:
    found = unpaired_ratio([2.0], [4.0, 4.1])
    assert (found.low, found.high) == (0.0, math.inf)
    with pytest.raises(ValueError, match="no repetition"):
        unpaired_ratio([], [1.0])
