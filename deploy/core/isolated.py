"""A backend in a child process: a crash of the runtime is an error, not the end of the command."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from deploy.core.backend import find_backend
from deploy.core.errors import UsageError
from deploy.core.limits import limits
from deploy.core.memory import limit_memory, memory_explained
from deploy.core.plain import from_plain, to_plain
from deploy.core.remote import Remote, Reply
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec

_PATIENCE = 10
"""Seconds of a run for each second of processor time that the caller spends meanwhile, usually on the same run."""


class IsolatedRunner(Runner):
    """A runner in a child process, started before there is a file so that its imports cost no time.

    The module ``runner`` opens files in place of the one that the backend declares. The process has limits of time
    (`Limits.onnx_open_seconds` to open, `Limits.onnx_run_seconds` to run one sample) and, on a CPU, of memory.
    """

    def __init__(self, backend: str, runner: str | None = None) -> None:
        self.backend = find_backend(backend)
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._submitted = self._allowed_s = 0.0
        self._remote = Remote(
            "deploy.core.isolated:RunnerHost", (runner or self.backend.runner,), name=self.backend.title
        )

    @property
    def pid(self) -> int:
        """Process ID of the child."""
        return self._remote.pid

    @property
    def dead(self) -> bool:
        """Whether the child process has ended."""
        return self._remote.dead

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the child process when it last replied."""
        return self._remote.peak_bytes

    def open(self, path: Path, *, runner: str = "", **options: Any) -> None:
        """Open an artifact with the options of the backend's ``open``, in place of the one that is open.

        The module ``runner`` opens it in place of the one that this process was started with.

        Raises:
            BackendError: the runtime refused the file.
            BackendCrashedError: the child process died.
        """
        limited, self._remote.limit = "cpu" in self.backend.devices, "onnx_open_seconds"
        timeout_s = limits().onnx_open_seconds
        reply, _ = self._remote.call(
            "open", timeout_s=timeout_s, path=str(path.resolve()), runner=runner, options=options, limited=limited
        )
        self.inputs = from_plain(tuple[TensorSpec, ...], reply["inputs"])
        self.outputs = from_plain(tuple[TensorSpec, ...], reply["outputs"])

    def submit(self, feeds: Feeds) -> None:
        """Start a run; `result` waits for its outputs."""
        self._submitted, self._allowed_s = time.process_time(), _allowed_s(feeds)
        self._remote.send("run", feeds)

    def result(self) -> Fetches:
        """Return the outputs of the run that `submit` started."""
        return self._result(max(self._allowed_s, _PATIENCE * (time.process_time() - self._submitted)))

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        self.submit(feeds)
        return self._result(self._allowed_s)

    def _result(self, timeout_s: float) -> Fetches:
        self._remote.limit = "onnx_run_seconds"
        return self._remote.receive(timeout_s)[1]

    def close(self) -> None:
        """End the child process, even while it runs."""
        self._remote.close()


def _allowed_s(feeds: Feeds) -> float:
    """Return how long a run may take, by its number of samples."""
    samples = max((value.shape[0] for value in feeds.values() if value.ndim), default=1)
    return limits().onnx_run_seconds * max(1, samples)


class RunnerHost:
    """The child's side of `IsolatedRunner`; the module that opens files is imported at once."""

    def __init__(self, runner: str) -> None:
        self._module = importlib.import_module(runner)
        self._runner: Runner | None = None

    def open(self, _: Feeds, path: str, runner: str, options: dict[str, Any], limited: bool) -> Reply:
        """Open an artifact and describe its tensors; ``limited`` limits the memory of this process."""
        self._runner = None  # frees its memory
        module = importlib.import_module(runner) if runner else self._module
        if limited:
            limit_memory(Path(path))
        with memory_explained():
            opened: Runner = module.open(Path(path), **options)
        self._runner = opened
        return to_plain({"inputs": opened.inputs, "outputs": opened.outputs}), {}

    def run(self, feeds: Feeds) -> Reply:
        """Run once."""
        if self._runner is None:
            raise UsageError("no file was opened.")
        with memory_explained():
            return {}, self._runner.run(feeds)
