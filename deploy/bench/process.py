"""The parent's side of a timed process: start it with a fixed number of threads, send requests, end it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from deploy.core.plain import from_plain
from deploy.core.remote import Remote
from deploy.core.runner import Feeds, Fetches
from deploy.core.tensors import TensorSpec

Plain = Mapping[str, Any]
"""Plain values for JSON."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

KEEP = 2000
"""Samples kept per process."""

SCENARIO_TRIALS = 10
"""Trials a scenario may run before its process is killed as unresponsive."""

OPEN_S = 600.0
"""Seconds that opening may take; compilers are slow."""


class BenchProcess:
    """A fresh process with one backend; a context manager that ends it.

    It is also a candidate for `deploy.parity.compare`, so that the parity check runs the process that is timed. Every
    library that reads its number of threads from the environment gets ``threads``. A request may take ``patience_s``
    seconds beyond the time it asks for; opening has its own limit. ``python`` is the interpreter, None for this one.
    """

    def __init__(
        self,
        runner: str,
        threads: int,
        *,
        target: str = "deploy.bench.worker:TimingWorker",
        patience_s: float = 120.0,
        python: Path | None = None,
    ) -> None:
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._patience_s = patience_s
        environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
        self._remote = Remote(target, (runner,), name=runner, environment=environment, python=python)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._remote.close()

    def submit_open(self, feeds: Feeds, *, path: Path | None, model: Plain | None, options: Plain) -> None:
        """Start to open a file or a model and to call it once; `opened` waits for it."""
        self._remote.send("open", feeds, path=str(path) if path else None, model=model, options=dict(options))

    def opened(self) -> dict[str, Any]:
        """Wait for `submit_open`; return ``import_ns``, ``load_ns``, ``first_ns`` and ``peak_bytes``.

        Raises:
            DeployError: the backend refused the file or model, or the model could not be built.
            BackendCrashedError: the process died or did not reply in time.
        """
        reply, _ = self._remote.receive(OPEN_S)
        self.inputs = from_plain(tuple[TensorSpec, ...], reply.pop("inputs"))
        return reply

    def open(self, feeds: Feeds, *, path: Path | None, model: Plain | None, options: Plain) -> dict[str, Any]:
        """`submit_open`, then `opened`."""
        self.submit_open(feeds, path=path, model=model, options=options)
        return self.opened()

    def submit(self, feeds: Feeds) -> None:
        """Start an untimed run; `result` waits for its outputs."""
        self._remote.send("run", feeds)

    def result(self) -> Fetches:
        """Return the outputs of the run that `submit` started."""
        return self._remote.receive(self._patience_s)[1]

    def copies(self, feeds: Feeds) -> dict[str, Any]:
        """Measure ``bind_ns`` and ``fetch_ns``, the times to lay out inputs and to fetch outputs."""
        return self._remote.call("copies", feeds, timeout_s=self._patience_s)[0]

    def warm(self, max_s: float, window_s: float = 0.1) -> dict[str, Any]:
        """Warm up for at most ``max_s`` seconds; see `deploy.bench.clock.warm_up`."""
        timeout_s = max_s + self._patience_s
        max_ns, window_ns = int(max_s * 1e9), int(window_s * 1e9)
        return self._remote.call("warm", timeout_s=timeout_s, max_ns=max_ns, window_ns=window_ns)[0]

    def time(self, seconds: float, *, keep: int = KEEP, min_calls: int = 5) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Time calls for so many seconds; return what happened meanwhile, and at most ``keep`` times in nanoseconds."""
        timeout_s, time_ns = seconds + self._patience_s, int(seconds * 1e9)
        reply, arrays = self._remote.call("time", timeout_s=timeout_s, time_ns=time_ns, keep=keep, min_calls=min_calls)
        return reply, arrays["samples"]

    def scenario(self, name: str, options: Plain) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Run a scenario of `deploy.bench.scenarios`; it may run several trials of ``time_s`` seconds."""
        timeout_s = SCENARIO_TRIALS * (options["time_s"] + self._patience_s)
        reply, arrays = self._remote.call("scenario", timeout_s=timeout_s, name=name, options=dict(options), keep=KEEP)
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
        """Profile the operators of a file or model, opened for that alone."""
        file = str(path) if path else None
        reply, _ = self._remote.call(
            "profile", feeds, timeout_s=OPEN_S, path=file, model=model, options=dict(options), calls=calls
        )
        return list(reply["operators"])
