"""The object in a timed process: it opens one file or model with one backend, warms it up and times it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bench import clock
from deploy.bench.interference import Snapshot, between, snapshot
from deploy.core import registry
from deploy.core.errors import UsageError
from deploy.core.memory import limit_memory
from deploy.core.plain import to_plain
from deploy.core.remote import Reply
from deploy.core.runner import Feeds, Runner
from deploy.support.cuda_driver import gpu_uuid

SCENARIOS = "deploy.bench.scenarios"
COPIES = 10
"""Number of times that inputs are laid out and outputs fetched, to measure what that takes."""


ENERGY_NS = 1_000_000_000
"""Shortest window whose energy is reported: the GPU's counter advances in steps of up to 100 ms."""


@cache
def _meter(gpu: int) -> tuple[Any, Any] | None:
    """Return NVML (package ``nvidia-ml-py``) and its device for a GPU; None without package, driver or GPU.

    NVML counts all GPUs of the machine, and CUDA the visible ones: the identifier is the same in both.
    """
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return nvml, nvml.nvmlDeviceGetHandleByUUID(gpu_uuid(gpu))
    except Exception:
        return None


def _joules(gpu: int | None) -> float | None:
    """Return the energy that a GPU has used since its driver was loaded; None if unknown, or for a CPU."""
    if gpu is None or (meter := _meter(gpu)) is None:
        return None
    nvml, device = meter
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(device)) / 1000.0
    except Exception:  # the GPU is older than the counter
        return None


def _reply(samples: NDArray[np.int64], keep: int, before: Snapshot, details: dict[str, Any]) -> Reply:
    """Return samples, thinned evenly if there are more than ``keep``, with what happened meanwhile."""
    step = -(-len(samples) // keep)
    details |= {"calls": len(samples), "thinned": step, "interference": between(before, snapshot())}
    return details, {"samples": samples[::step]}


class TimingWorker:
    """The child's side of `deploy.bench.process.BenchProcess`.

    Args:
        runner: module that opens files or models; imported at once.
        wrap: applied to the open runner; the harness's own benchmarks add a known delay with it.
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
            raise UsageError("no file was opened.")
        return self._opened

    def open(self, feeds: Feeds, path: str | None, model: dict[str, Any] | None, options: dict[str, Any]) -> Reply:
        """Open a file, or build a model from its request, bind ``feeds``, and time the first call."""
        began = perf_counter_ns()
        if path is not None and options.get("provider", "cpu") == "cpu":
            limit_memory(Path(path))
        open_it = self._backend.open if model is None else self._backend.from_model
        self._opened = runner = self._wrap(open_it(self._subject(path, model), **options))
        loaded = perf_counter_ns()
        runner.bind(feeds)
        bound = perf_counter_ns()
        runner.launch()
        runner.synchronize()
        first = perf_counter_ns() - bound
        reply = {"import_ns": self._import_ns, "load_ns": loaded - began, "first_ns": first}
        return {**reply, "nodes": dict(runner.nodes), "inputs": to_plain(runner.inputs)}, {}

    def run(self, feeds: Feeds) -> Reply:
        """Run once, untimed, and return the outputs."""
        self._runner.bind(feeds)
        self._runner.launch()
        self._runner.synchronize()
        return {}, self._runner.fetch()

    def copies(self, feeds: Feeds) -> Reply:
        """Return the median times to lay out inputs and to fetch outputs."""
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

    def warm(self, _: Feeds, max_ns: int, window_ns: int = clock.WINDOW_NS) -> Reply:
        """Run until latency is steady, for at most ``max_ns``."""
        warmup = clock.warm_up(self._runner, max_ns, window_ns)
        return {"calls": warmup.calls, "spent_ns": warmup.spent_ns, "settled": warmup.settled}, {}

    def time(self, _: Feeds, time_ns: int, keep: int, min_calls: int = clock.MIN_CALLS) -> Reply:
        """Time calls; more than ``keep`` samples are thinned evenly."""
        gpu = self._runner.gpu
        before, began, energy = snapshot(), perf_counter_ns(), _joules(gpu)
        samples = clock.sample(self._runner, time_ns, min_calls)
        after, spent_ns = _joules(gpu), perf_counter_ns() - began
        known = energy is not None and after is not None and spent_ns >= ENERGY_NS
        used = after - energy if known else None  # type: ignore[operator]
        details, arrays = _reply(samples, keep, before, {"joules": used})
        return {**details, "device_ns": self._device_ns()}, arrays

    def _device_ns(self) -> int | None:
        """Return the median time on the device of `COPIES` more runs, where the backend measures it with its events."""
        device_ns = getattr(self._runner, "device_ns", None)
        if device_ns is None:
            return None
        times = [device_ns() for _ in range(COPIES)]
        known = [item for item in times if item is not None]
        return int(np.median(known)) if known else None

    def scenario(self, _: Feeds, name: str, options: dict[str, Any], keep: int) -> Reply:
        """Run a scenario of `deploy.bench.scenarios`."""
        scenario = registry.load(SCENARIOS, name, "scenario")
        before = snapshot()
        details, samples = scenario.run(self._runner, **options)
        return _reply(samples, keep, before, details)

    def profile(
        self, feeds: Feeds, path: str | None, model: dict[str, Any] | None, options: dict[str, Any], calls: int
    ) -> Reply:
        """Time each operator with the backend's own profiler."""
        name = "profile" if model is None else "profile_model"
        if not hasattr(self._backend, name):
            raise UsageError("this backend has no profiler that times layers.")
        return {"operators": getattr(self._backend, name)(self._subject(path, model), feeds, calls, **options)}, {}

    def _subject(self, path: str | None, model: dict[str, Any] | None) -> Any:
        if model is None:
            return Path(path or "")
        from deploy.models.request import ModelRequest
        from deploy.models.resolve import resolve

        return resolve(ModelRequest.from_dict(model))
