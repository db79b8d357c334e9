"""A timing worker whose calls are slowed by a known factor, the environment variable ``SLOWDOWN``."""

from __future__ import annotations

import os
from time import perf_counter_ns

from deploy.bench.worker import TimingWorker
from deploy.core.runner import Feeds, Fetches, Runner


class Slowed(Runner):
    """Runs another runner, then busy-waits until ``factor`` times its duration has passed."""

    def __init__(self, inner: Runner, factor: float) -> None:
        self._inner, self._factor = inner, factor
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, feeds: Feeds) -> Fetches:
        """Run the inner runner once, without slowdown."""
        return self._inner.run(feeds)

    def bind(self, feeds: Feeds) -> None:
        """Bind the inner runner."""
        self._inner.bind(feeds)

    def launch(self) -> None:
        """Run, then busy-wait."""
        began = perf_counter_ns()
        self._inner.launch()
        self._inner.synchronize()
        end = began + (perf_counter_ns() - began) * self._factor
        while perf_counter_ns() < end:
            pass

    def fetch(self) -> Fetches:
        """Fetch from the inner runner."""
        return self._inner.fetch()


class SlowedWorker(TimingWorker):
    """Times a `Slowed` runner."""

    def __init__(self, runner: str) -> None:
        factor = float(os.environ.get("SLOWDOWN", "1"))
        super().__init__(runner, lambda inner: Slowed(inner, factor))
