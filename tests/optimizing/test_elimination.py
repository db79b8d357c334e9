"""The fastest of many candidates stays, and the others leave early."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from deploy.bench.elimination import LOOKS, Elimination

Noise = Callable[[np.random.Generator], float]


def _normal(rng: np.random.Generator) -> float:
    return float(rng.normal(0.0, 0.03))


def _heavy(rng: np.random.Generator) -> float:
    return float(0.02 * rng.standard_t(2.5))


def _run(times: Sequence[float], noise: Noise, rng: np.random.Generator) -> Elimination:
    state = Elimination([str(index) for index in range(len(times))], margin=0.02)
    while not state.over:
        state.add({name: times[int(name)] * math.exp(noise(rng)) for name in state.left})
        state.look()
    return state


@pytest.mark.parametrize("noise", [_normal, _heavy])
@pytest.mark.parametrize("times", [[1.0] * 12, [1.0] + [1.03] * 11, list(np.geomspace(1.0, 4.0, 12))])
def test_the_fastest_is_kept_and_found(noise: Noise, times: list[float]) -> None:
    rng = np.random.default_rng(1)
    runs = [_run(times, noise, rng) for _ in range(40)]
    assert sum("0" in run.dropped for run in runs) <= 2
    assert sum(times[int(run.winner())] <= 1.02 * min(times) for run in runs) >= 36


def test_much_slower_candidates_leave_at_the_first_look() -> None:
    state = _run([1.0, 1.001, 3.0, 5.0], lambda rng: float(rng.normal(0.0, 0.001)), np.random.default_rng(0))
    assert {name: state.dropped[name] for name in ("2", "3")} == {"2": LOOKS[0], "3": LOOKS[0]}
    assert state.winner() == "0" and state.equal("1", "0"), "of two that are equal, the first is preferred"


def test_those_to_keep_stay_for_five_rounds_and_failures_leave() -> None:
    state = Elimination(["a", "b", "slow"], margin=0.02, keep=["slow"])
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert "slow" in state.left
        state.add({"a": 1.0 + 0.001 * rng.random(), "b": 2.0 + 0.001 * rng.random(), "slow": 9.0 + 0.01 * rng.random()})
        state.look()
    assert state.left == ["a"] and state.over
    assert 8.0 < state.ratio("slow", "a").low < 9.0 < state.ratio("slow", "a").high
    state = Elimination(["a", "b"], margin=0.02)
    state.fail("a")
    state.add({"b": 1.0})
    assert state.winner() == "b" and not math.isfinite(state.ratio("a", "b").high)


def test_one_wild_round_does_not_overflow() -> None:
    state = Elimination(["a", "b"], margin=0.02)
    for ratio in (1.0, 1e200, 1.0):
        state.add({"a": 1.0, "b": ratio})
    assert state.look() == [] and state.ratio("b", "a").high == math.inf
