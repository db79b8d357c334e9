"""One process to be timed, from outside: started with its threads fixed, spoken to, ended."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from deploy.core.child import Child
from deploy.core.runner import Feeds, Fetches
from deploy.core.tensors import TensorSpec

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KEEP = 2000
"""Samples that are kept of one process."""

SCENARIO_TRIALS = 10
"""A scenario may run so many trials until it is taken for hung."""

OPEN_S = 600.0
"""Seconds that opening may take; compilers are slow."""


class BenchProcess:
    """A fresh process with one backend; a context manager that ends it.

    It is also a candidate for `deploy.parity.compare`: what is proven is the very process that is timed.

    Args:
        runner: module that opens files or models: `deploy.core.backend.Backend.runner`.
        threads: for every library that asks the environment.
        module: the worker's module.
        patience_s: seconds it may take for anything but opening, beyond what it was asked to spend.
    """

    def __init__(
        self,
        runner: str,
        threads: int,
        *,
        module: str = "deploy.bench.worker",
        patience_s: float = 120.0,
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._patience = patience_s
        environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
        self._child = Child(module, runner, (runner,), environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def submit_open(
        self, feeds: Feeds, *, path: Path | None, model: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> None:
        """Begin to open a file or a model and to call it once; `opened` waits for it."""
        request = {"do": "open", "path": str(path) if path else None, "model": model, "options": dict(options)}
        self._child.send(request, feeds)

    def opened(self) -> dict[str, Any]:
        """Wait for `submit_open`.

        Returns:
            ``import_ns``, ``load_ns``, ``first_ns``, and ``peak_bytes`` of memory.

        Raises:
            BackendError: it was refused.
            BackendCrashedError: the process died, or took too long.
        """
        reply, _ = self._child.receive(OPEN_S)
        self.inputs = TensorSpec.all_of(reply.pop("inputs"))
        return reply

    def open(
        self, feeds: Feeds, *, path: Path | None, model: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`submit_open`, then `opened`."""
        self.submit_open(feeds, path=path, model=model, options=options)
        return self.opened()

    def submit(self, feeds: Feeds) -> None:
        """Begin an untimed run; `result` waits for it."""
        self._child.send({"do": "run"}, feeds)

    def result(self) -> Fetches:
        """Outputs of the run begun by `submit`."""
        return self._child.receive(self._patience)[1]

    def copies(self, feeds: Feeds) -> dict[str, Any]:
        """``bind_ns`` and ``fetch_ns``: what laying out inputs and fetching outputs takes."""
        return self._child.call({"do": "copies"}, feeds, self._patience)[0]

    def warm(self, most_s: float, window_s: float = 0.1) -> dict[str, Any]:
        """Warm up, for ``most_s`` seconds at most; see `deploy.bench.clock.warm_up`."""
        request = {"do": "warm", "most_ns": int(most_s * 1e9), "window_ns": int(window_s * 1e9)}
        return self._child.call(request, None, most_s + self._patience)[0]

    def time(self, seconds: float, *, keep: int = KEEP, least: int = 5) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Time calls for so long; what happened meanwhile, and nanoseconds."""
        request = {"do": "time", "time_ns": int(seconds * 1e9), "keep": keep, "least": least}
        reply, arrays = self._child.call(request, None, seconds + self._patience)
        return reply, arrays["samples"]

    def scenario(
        self, name: str, options: Mapping[str, Any], *, keep: int = KEEP
    ) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Run a file of `deploy.bench.scenarios`; it may take several times as long as one trial of it."""
        request = {"do": "scenario", "name": name, "options": dict(options), "keep": keep}
        reply, arrays = self._child.call(request, None, SCENARIO_TRIALS * (options["time_s"] + self._patience))
        return reply, arrays["samples"]

    def profile(
        self,
        feeds: Feeds,
        *,
        path: Path | None,
        model: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        calls: int,
    ) -> list[dict[str, Any]]:
        """Time by operator of a file or model, opened for that alone.

        Raises:
            BackendError: the backend has no profiler.
        """
        request = {"do": "profile", "path": str(path) if path else None, "model": model}
        reply, _ = self._child.call({**request, "options": dict(options), "calls": calls}, feeds, OPEN_S)
        found: list[dict[str, Any]] = reply["operators"]
        return found
