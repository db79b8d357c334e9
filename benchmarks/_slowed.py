"""A worker whose every call takes longer by a known share: ``SLOWDOWN=1.03 python -m benchmarks._slowed RUNNER``."""

from __future__ import annotations

import os
import sys
from time import perf_counter_ns

from deploy.bench.worker import TimingWorker
from deploy.core.child import serve
from deploy.core.runner import Feeds, Fetches, Runner


class Slowed(Runner):
    """Runs another runner, then waits, busy, until ``factor`` times what it took has passed."""

    def __init__(self, inner: Runner, factor: float) -> None:
        self._inner, self._factor = inner, factor
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, feeds: Feeds) -> Fetches:
        """Run once."""
        return self._inner.run(feeds)

    def bind(self, feeds: Feeds) -> None:
        """As the inner does."""
        self._inner.bind(feeds)

    def launch(self) -> None:
        """Run, then wait."""
        began = perf_counter_ns()
        self._inner.launch()
        self._inner.synchronize()
        end = began + (perf_counter_ns() - began) * self._factor
        while perf_counter_ns() < end:
            pass

    def fetch(self) -> Fetches:
        """As the inner does."""
        return self._inner.fetch()


if __name__ == "__main__":
    factor = float(os.environ.get("SLOWDOWN", "1"))
    serve(TimingWorker(sys.argv[1], lambda runner: Slowed(runner, factor)).answer)
