"""Any backend in a process of its own: a crash of the runtime is an error, not the end of the command."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from deploy.core import wire
from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec


class IsolatedRunner(Runner):
    """A backend in a child process, started before there is a file so that its import costs no time.

    Args:
        backend: name of the backend, ``onnxruntime``.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.peak_bytes = 0
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "deploy.backends._worker", backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    @property
    def dead(self) -> bool:
        """Whether the child has ended."""
        return self._process.poll() is not None

    def open(self, path: Path, **options: Any) -> None:
        """Open an artifact in the child.

        Raises:
            BackendError: the backend refused it.
            BackendCrashedError: the child died of it.
        """
        self._send({"do": "open", "path": str(path.resolve()), "options": options}, {})
        reply, _ = self._receive()
        self.inputs = _specs(reply["inputs"])
        self.outputs = _specs(reply["outputs"])

    def submit(self, feeds: Feeds) -> None:
        """Begin a run; `result` waits for it."""
        self._send({"do": "run"}, dict(feeds))

    def result(self) -> Fetches:
        """Outputs of the run begun by `submit`; see `Runner.run`."""
        return self._receive()[1]

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        self.submit(feeds)
        return self.result()

    def close(self) -> None:
        """End the child; a child that is busy is killed."""
        if self._process.poll() is None:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # an unsent request to a child that is gone
                    continue
        self._process.wait()
        self._log.close()

    def _send(self, message: dict[str, Any], arrays: Fetches) -> None:
        try:
            wire.send(cast(BinaryIO, self._process.stdin), message, arrays)
        except OSError as exc:
            raise self._died() from exc

    def _receive(self) -> tuple[dict[str, Any], Fetches]:
        try:
            reply, arrays = wire.receive(cast(BinaryIO, self._process.stdout))
        except EOFError as exc:
            raise self._died() from exc
        self.peak_bytes = reply["peak_bytes"]
        if "error" in reply:
            raise BackendError(reply["error"], reply["hint"])
        return reply, arrays

    def _died(self) -> BackendCrashedError:
        code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self._log.seek(0)
        last = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()[-1:]
        hint = "the machine may have run out of memory" if code == -signal.SIGKILL else None
        return BackendCrashedError(f"the process of {self.backend} {how}{': ' if last else '.'}{''.join(last)}", hint)


def _specs(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=item["name"], dtype=item["dtype"], shape=tuple(item["shape"])) for item in items)
