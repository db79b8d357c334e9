"""A backend in a child process: a crash of the runtime is an error, not the end of the command."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from deploy.core.backend import find_backend
from deploy.core.errors import UsageError
from deploy.core.plain import from_plain, to_plain
from deploy.core.remote import Remote, Reply
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec


class IsolatedRunner(Runner):
    """A runner in a child process, started before there is a file so that its imports cost no time.

    The module ``runner`` opens files in place of the one that the backend declares.
    """

    def __init__(self, backend: str, runner: str | None = None) -> None:
        self.backend = find_backend(backend)
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
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

    def open(self, path: Path, **options: Any) -> None:
        """Open an artifact with the options of the backend's ``open``.

        Raises:
            BackendError: the runtime refused the file.
            BackendCrashedError: the child process died.
        """
        reply, _ = self._remote.call("open", path=str(path.resolve()), options=options)
        self.inputs = from_plain(tuple[TensorSpec, ...], reply["inputs"])
        self.outputs = from_plain(tuple[TensorSpec, ...], reply["outputs"])

    def submit(self, feeds: Feeds) -> None:
        """Start a run; `result` waits for its outputs."""
        self._remote.send("run", feeds)

    def result(self) -> Fetches:
        """Return the outputs of the run that `submit` started."""
        return self._remote.receive()[1]

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        self.submit(feeds)
        return self.result()

    def close(self) -> None:
        """End the child process, even while it runs."""
        self._remote.close()


class RunnerHost:
    """The child's side of `IsolatedRunner`; the module that opens files is imported at once."""

    def __init__(self, runner: str) -> None:
        self._module = importlib.import_module(runner)
        self._runner: Runner | None = None

    def open(self, _: Feeds, path: str, options: dict[str, Any]) -> Reply:
        """Open an artifact and describe its tensors."""
        runner: Runner = self._module.open(Path(path), **options)
        self._runner = runner
        return to_plain({"inputs": runner.inputs, "outputs": runner.outputs}), {}

    def run(self, feeds: Feeds) -> Reply:
        """Run once."""
        if self._runner is None:
            raise UsageError("no file was opened.")
        return {}, self._runner.run(feeds)
