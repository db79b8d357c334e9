"""The process that is timed: it opens one thing with one backend, warms it up, and tells what its clock said.

Started as ``python -m deploy.bench.worker BACKEND`` by `deploy.bench.process`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from deploy.bench import clock
from deploy.bench.energy import joules
from deploy.bench.interference import between, snapshot
from deploy.core import registry
from deploy.core.child import serve
from deploy.core.errors import UsageError
from deploy.core.runner import Fetches, Runner

Reply = tuple[dict[str, Any], Fetches]

COPIES = 10
"""Times that inputs are laid out and outputs fetched, to tell what that takes."""


class TimingWorker:
    """Answers `deploy.bench.process.BenchProcess`, request by request.

    Args:
        runner: module that opens files or models.
        wrap: applied to the runner that was opened; benchmarks of the harness plant a known slow-down with it.
    """

    def __init__(self, runner: str, wrap: Callable[[Runner], Runner] = lambda runner: runner) -> None:
        began = perf_counter_ns()
        self._backend = importlib.import_module(runner)
        self._import_ns = perf_counter_ns() - began
        self._wrap = wrap
        self._opened: Runner | None = None

    @property
    def _runner(self) -> Runner:
        if self._opened is None:
            raise UsageError("nothing was opened.")
        return self._opened

    def answer(self, request: dict[str, Any], arrays: Fetches) -> Reply:
        """Do what a request says; every ``do`` is a method."""
        done: Reply = getattr(self, f"do_{request.pop('do')}")(arrays, **request)
        return done

    def do_open(self, feeds: Fetches, path: str | None, model: dict[str, Any] | None, options: dict[str, Any]) -> Reply:
        """Open a file, or build a model from its request, and bind ``feeds``; the first call is timed apart."""
        began = perf_counter_ns()
        open_it = self._backend.open if model is None else self._backend.from_model
        runner = open_it(self._subject(path, model), **options)
        self._opened = runner = self._wrap(runner)
        loaded = perf_counter_ns()
        runner.bind(feeds)
        bound = perf_counter_ns()
        runner.launch()
        runner.synchronize()
        first = perf_counter_ns() - bound
        reply = {"import_ns": self._import_ns, "load_ns": loaded - began, "first_ns": first}
        return {**reply, "inputs": [item.plain() for item in runner.inputs]}, {}

    def do_run(self, feeds: Fetches) -> Reply:
        """Run once, untimed, and give the outputs."""
        self._runner.bind(feeds)
        self._runner.launch()
        self._runner.synchronize()
        return {}, self._runner.fetch()

    def do_copies(self, feeds: Fetches) -> Reply:
        """How long inputs take to be laid out and outputs to be fetched: medians."""
        into, back = [], []
        for _ in range(COPIES):
            before = perf_counter_ns()
            self._runner.bind(feeds)
            into.append(perf_counter_ns() - before)
            self._runner.launch()
            self._runner.synchronize()
            before = perf_counter_ns()
            self._runner.fetch()
            back.append(perf_counter_ns() - before)
        return {"bind_ns": int(np.median(into)), "fetch_ns": int(np.median(back))}, {}

    def do_warm(self, _: Fetches, most_ns: int, window_ns: int = clock.WINDOW_NS) -> Reply:
        """Run until it is steady."""
        found = clock.warm_up(self._runner, most_ns, window_ns)
        return {"calls": found.calls, "spent_ns": found.spent_ns, "settled": found.settled}, {}

    def do_time(self, _: Fetches, time_ns: int, keep: int, least: int = clock.LEAST) -> Reply:
        """Time calls; of more than ``keep`` samples, one of so many is given, evenly over the time."""
        before, energy = snapshot(), joules()
        samples = clock.sample(self._runner, time_ns, least)
        used = None if energy is None else (joules() or energy) - energy
        interference = between(before, snapshot())
        step = -(-len(samples) // keep)
        told = {"calls": len(samples), "thinned": step, "interference": interference, "joules": used}
        return {**told, "device_ns": self._device_ns()}, {"samples": samples[::step]}

    def _device_ns(self) -> int | None:
        """The median time on the device by its own events, where the backend has such; the host is waited for."""
        ask = getattr(self._runner, "device_ns", None)
        found = []
        for _ in range(COPIES if ask else 0):
            self._runner.launch()
            self._runner.synchronize()
            found.append(ask() if ask else None)
        told = [item for item in found if item is not None]
        return int(np.median(told)) if told else None

    def do_scenario(self, _: Fetches, name: str, options: dict[str, Any], keep: int) -> Reply:
        """Run a scenario of `deploy.bench.scenarios`."""
        scenario = registry.load("deploy.bench.scenarios", name, "scenario")
        before = snapshot()
        details, samples = scenario.run(self._runner, **options)
        step = -(-len(samples) // keep)
        details |= {"calls": len(samples), "thinned": step, "interference": between(before, snapshot())}
        return details, {"samples": samples[::step]}

    def do_profile(
        self, feeds: Fetches, path: str | None, model: dict[str, Any] | None, options: dict[str, Any], calls: int
    ) -> Reply:
        """Time by operator, as the backend's own profiler tells it.

        Raises:
            UsageError: the backend has none.
        """
        name = "profile" if model is None else "profile_model"
        if not hasattr(self._backend, name):
            raise UsageError("this backend has no profiler that tells layers.")
        found = getattr(self._backend, name)(self._subject(path, model), feeds, calls, **options)
        return {"operators": found}, {}

    def _subject(self, path: str | None, model: dict[str, Any] | None) -> Any:
        """The file, or the model built from its request."""
        if model is None:
            return Path(path or "")
        from deploy.models.request import ModelRequest
        from deploy.models.resolve import resolve

        return resolve(ModelRequest.from_dict(model))


if __name__ == "__main__":
    serve(TimingWorker(sys.argv[1]).answer)
