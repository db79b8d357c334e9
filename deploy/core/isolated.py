"""Any backend in a process of its own: a crash of the runtime is an error, not the end of the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.core.backend import find_backend
from deploy.core.child import Child
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec


class IsolatedRunner(Runner):
    """A backend in a child process, started before there is a file so that its import costs no time.

    Args:
        backend: name of the backend, ``onnxruntime``.
        runner: module that opens files; default: the backend's own.

    Raises:
        UnknownNameError: no backend has this name.
    """

    def __init__(self, backend: str, runner: str | None = None) -> None:
        self.backend = find_backend(backend)
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.peak_bytes = 0
        self._child = Child("deploy.core.isolated_worker", self.backend.title, (runner or self.backend.runner,))

    @property
    def dead(self) -> bool:
        """Whether the child has ended."""
        return self._child.dead

    def open(self, path: Path, **options: Any) -> None:
        """Open an artifact in the child.

        Raises:
            BackendError: the backend refused it.
            BackendCrashedError: the child died of it.
        """
        self._child.send({"do": "open", "path": str(path.resolve()), "options": options})
        reply, _ = self._receive()
        self.inputs = TensorSpec.all_of(reply["inputs"])
        self.outputs = TensorSpec.all_of(reply["outputs"])

    def submit(self, feeds: Feeds) -> None:
        """Begin a run; `result` waits for it."""
        self._child.send({"do": "run"}, feeds)

    def result(self) -> Fetches:
        """Outputs of the run begun by `submit`; see `Runner.run`."""
        return self._receive()[1]

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        self.submit(feeds)
        return self.result()

    def close(self) -> None:
        """End the child; a child that is busy is killed."""
        self._child.close()

    def _receive(self) -> tuple[dict[str, Any], Fetches]:
        reply, arrays = self._child.receive()
        self.peak_bytes = reply["peak_bytes"]
        return reply, arrays
