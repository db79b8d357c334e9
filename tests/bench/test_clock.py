"""The clock, on runners whose calls are counted."""

from collections.abc import Callable

import numpy as np

from deploy.bench import clock
from deploy.core.runner import Feeds, Fetches, Runner


class Counting(Runner):
    """Does what it is told at every call."""

    inputs = ()
    outputs = ()

    def __init__(self, work: Callable[[int], None] = lambda call: None) -> None:
        self.work = work
        self.launched = self.awaited = 0

    def run(self, feeds: Feeds) -> Fetches:
        return {}

    def launch(self) -> None:
        self.launched += 1
        self.work(self.launched)

    def synchronize(self) -> None:
        self.awaited += 1


def test_every_call_is_waited_for_and_kept_in_order() -> None:
    runner = Counting()
    found = clock.sample(runner, 0, min_calls=7)
    assert len(found) == 7 == runner.launched == runner.awaited
    assert found.dtype == np.int64 and (found >= 0).all()


def test_slow_calls_are_timed_at_least_so_often_and_fast_ones_at_most() -> None:
    assert len(clock.sample(Counting(), 10**12, max_calls=100)) == 100


def test_warming_up_runs_two_windows_at_least_and_ends_when_they_agree() -> None:
    steady = Counting(lambda call: sum(range(20_000)) and None)
    found = clock.warm_up(steady, max_ns=10**11, window_ns=10**6)
    assert found.settled and found.calls == steady.launched >= 2 * clock.WINDOW_CALLS


def test_warming_up_ends_unsettled_when_the_time_is_up() -> None:
    found = clock.warm_up(Counting(lambda call: sum(range(2000 * call)) and None), max_ns=0, window_ns=10**5)
    assert not found.settled


def test_the_garbage_collector_is_as_it_was() -> None:
    import gc

    states: list[bool] = []
    clock.sample(Counting(lambda call: states.append(gc.isenabled())), 0)
    assert not any(states) and gc.isenabled()
