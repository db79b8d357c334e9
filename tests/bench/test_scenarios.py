"""How requests come: with a clock that only the runner and the waiting move."""

from pathlib import Path

import numpy as np
import pytest

from deploy.bench.scenarios import loadgen, server
from deploy.core.errors import UnknownNameError, UsageError
from deploy.core.runner import Feeds, Fetches, Runner


class Slow(Runner):
    """Every call takes so many nanoseconds of a clock that stands still otherwise."""

    inputs = ()
    outputs = ()

    def __init__(self, takes: list[int]) -> None:
        self.takes, self.at, self.calls = takes, 0, 0

    def run(self, feeds: Feeds) -> Fetches:
        return {}

    def launch(self) -> None:
        self.at += self.takes[self.calls % len(self.takes)]
        self.calls += 1

    def wait(self, until: int) -> None:
        self.at = max(self.at, until)


def test_a_slow_answer_makes_those_behind_it_wait_and_that_counts() -> None:
    runner = Slow([10, 500, 10, 10, 10])
    due = np.array([100, 200, 300, 400, 900])
    begun, done = server.serve(runner, due, lambda: runner.at, runner.wait)
    assert begun.tolist() == [100, 200, 700, 710, 900]
    assert (done - due).tolist() == [10, 500, 410, 320, 10], "from when each was due, not from when it was begun"


def test_nothing_is_begun_before_it_is_due() -> None:
    runner = Slow([1])
    due = np.cumsum(np.random.default_rng(0).integers(1, 50, 500))
    begun, _ = server.serve(runner, due, lambda: runner.at, runner.wait)
    assert (begun >= due).all()


def test_no_more_is_achieved_than_arrives_and_the_fewest_requests_are_made() -> None:
    details, samples = server.trial(Slow([0]), rate=20_000.0, time_s=0.001, seed=3)
    assert details["requests"] == server.MIN_REQUESTS == len(samples)
    assert 0 < details["achieved_per_s"] < 1.1 * 20_000 and (samples >= 0).all()


def test_a_rate_that_holds_a_bound() -> None:
    class Tiny(Slow):
        def launch(self) -> None:
            sum(range(500))

    details, _ = server.run(Tiny([0]), time_s=0.01, p99_ms=1e4)
    assert details["bound_held"] and 0 < details["rate_per_s"] < details["saturation_per_s"]
    assert len(details["trials"]) == server.STEPS
    details, _ = server.run(Tiny([0]), time_s=0.01, p99_ms=1e-9)
    assert not details["bound_held"]


def test_a_rate_and_a_bound_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="server"):
        server.run(Slow([0]), time_s=1, rate=5, p99_ms=5)


@pytest.mark.parametrize("mode", sorted(loadgen.MODES))
def test_the_load_generator_asks_and_keeps_its_log(tmp_path: Path, mode: str) -> None:
    class Tiny(Slow):
        def launch(self) -> None:
            sum(range(2000))

    details, samples = loadgen.run(Tiny([0]), time_s=0.1, log_dir=str(tmp_path / "log"), mode=mode)
    assert details["loadgen"]["Result is"] in ("VALID", "INVALID") and len(samples)
    assert (tmp_path / "log" / loadgen.SUMMARY).stat().st_size


def test_a_mode_the_load_generator_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean offline"):
        loadgen.run(Slow([0]), time_s=0.1, log_dir=str(tmp_path), mode="ofline")
