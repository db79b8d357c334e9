"""Objects that live in a child process: a crash or a hang there is an error here, not the end of the command.

The parent starts the child with `Remote`. The child builds the object and answers each request with the result of one
of its methods. Both sides speak `deploy.core.wire` on the child's standard streams. A method takes the arrays that were
sent, then keyword arguments of plain values, and returns a `Reply`. It may send messages before its reply with
`notify`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from typing_extensions import Self

from deploy.core import errors, wire
from deploy.core.errors import BackendCrashedError, BackendError, DeployError
from deploy.core.limits import how_to_raise
from deploy.core.runner import Feeds, Fetches

Reply = tuple[dict[str, Any], Fetches]
"""Plain values and arrays."""

Listener = Callable[[dict[str, Any]], None]
"""Receives what a method sends with `notify`."""


_START = """
import sys
sys.path[:] = [*sys.argv.pop(1).splitlines(), *filter(None, sys.path)]
from deploy.core import remote
remote.main()
"""
"""Starts the child without the working directory in its module search path, unless the parent has it there: a
stranger's file may have the name of a package."""


class Remote:
    """An object in a child process; a context manager that ends the process.

    The process starts at once, so that its imports overlap with what the parent does next. Its environment variables
    are those of the parent where none are given, and so is its interpreter.

    Attributes:
        peak_bytes: peak memory of the process when it last replied; 0 where the system does not report it.
        limit: name of the limit that explains the death of the process (see `deploy.core.limits`); empty for none.
    """

    def __init__(
        self,
        target: str,
        arguments: Sequence[str] = (),
        *,
        name: str,
        environment: Mapping[str, str] | None = None,
        python: Path | None = None,
    ) -> None:
        self.name = name
        self.peak_bytes = 0
        self.limit = ""
        self._timeout_s: float | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        here = "\n".join(item for item in sys.path if item == os.getcwd())
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-W", "ignore", "-c", _START, here, _parent(), target, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=None if environment is None else dict(environment),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process ID of the child."""
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    @property
    def timed_out(self) -> bool:
        """Whether the process was killed because it did not reply in time."""
        return self._timeout_s is not None

    def send(self, method: str, arrays: Feeds | None = None, **arguments: Any) -> None:
        """Start a method with arrays and plain values; `receive` waits for its reply.

        Raises:
            BackendCrashedError: the process has died.
        """
        try:
            wire.send(cast(BinaryIO, self._process.stdin), {"method": method, "arguments": arguments}, arrays)
        except OSError as exc:
            raise self._crashed() from exc

    def receive(self, timeout_s: float | None = None, listener: Listener | None = None) -> Reply:
        """Wait for the reply to the last `send`; after ``timeout_s`` the process is killed.

        Returns:
            What the method returned, with ``peak_bytes`` added to its values.

        Raises:
            DeployError: the method raised it.
            BackendError: the method raised an error that is no `DeployError`.
            BackendCrashedError: the process died, or did not reply in time.
        """
        timer = threading.Timer(timeout_s, self._give_up, (timeout_s,)) if timeout_s else None
        try:
            if timer:
                timer.daemon = True  # if a signal arrives while it starts, it must not delay the exit
                timer.start()
            while True:
                reply, arrays = wire.receive(cast(BinaryIO, self._process.stdout))
                if "message" not in reply:
                    break
                if listener:
                    listener(reply["message"])
        except EOFError as exc:
            raise self._crashed() from exc
        finally:
            if timer:
                timer.cancel()
        self.peak_bytes = reply["peak_bytes"]
        if "error" in reply:
            raise _decode_error(reply["error"])
        return {**reply["result"], "peak_bytes": self.peak_bytes}, arrays

    def call(
        self,
        method: str,
        arrays: Feeds | None = None,
        *,
        timeout_s: float | None = None,
        listener: Listener | None = None,
        **arguments: Any,
    ) -> Reply:
        """Run a method: `send`, then `receive`."""
        self.send(method, arrays, **arguments)
        return self.receive(timeout_s, listener)

    def terminate(self, grace_s: float) -> None:
        """Ask the process to stop, so that it can discard partial results; kill it after ``grace_s`` seconds."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        self.close()

    def close(self) -> None:
        """Kill the process if it still runs, and free its pipes."""
        if not self.dead:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # an unsent request to a dead process
                    stream.close()
        self._process.wait()
        self._log.close()

    def _give_up(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process.kill()

    def _crashed(self) -> BackendCrashedError:
        code = self._process.wait()
        if self._timeout_s is not None:
            return BackendCrashedError(
                f"the {self.name} process did not respond within {self._timeout_s:g} s and was killed.",
                how_to_raise(self.limit) if self.limit else None,
            )
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        self._log.seek(0)
        last = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()[-1:]
        hint = "the machine may have run out of memory" if code == -signal.SIGKILL else None
        if code == -signal.SIGABRT and self.limit:  # a library that does not survive a refused allocation
            hint = how_to_raise("onnx_memory_bytes")
        return BackendCrashedError(f"the {self.name} process {how}{': ' if last else '.'}{''.join(last)}", hint)


def notify(message: Mapping[str, Any]) -> None:
    """Send a message to the parent before the reply; for methods of an object in a child process."""
    assert _replies is not None, "this process serves no object"
    wire.send(_replies, {"message": dict(message)})


_replies: BinaryIO | None = None


def _parent() -> str:
    """Return the ID of this process if the child may die with this thread, which is the main thread; else 0."""
    return str(os.getpid() if threading.current_thread() is threading.main_thread() else 0)


def _die_with(parent: int) -> None:
    """Let the system kill this process when its parent dies, even while a library computes (Linux)."""
    if sys.platform != "linux" or not parent:
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has died already
        os._exit(1)


_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the object that the command line names, until the parent closes the pipe."""
    global _replies
    _die_with(int(sys.argv[1]))
    requests = sys.stdin.buffer
    _replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not break the protocol
    module, _, name = sys.argv[2].partition(":")
    target = getattr(importlib.import_module(module), name)(*sys.argv[3:])
    while True:
        try:
            request, arrays = wire.receive(requests)
        except EOFError:
            return
        fetches: Fetches = {}
        try:
            result, fetches = getattr(target, request["method"])(arrays, **request["arguments"])
            reply: dict[str, Any] = {"result": result}
        except Exception as exc:
            reply = {"error": _encode_error(exc)}
        wire.send(_replies, {**reply, "peak_bytes": _peak_bytes()}, fetches)


def _encode_error(exc: Exception) -> dict[str, Any]:
    if not isinstance(exc, DeployError):
        exc = BackendError(f"{type(exc).__name__}: {exc}".rstrip(": "))
    known = next(kind for kind in type(exc).__mro__ if kind.__module__ == errors.__name__)
    fields = {name: getattr(exc, name) for name in ("message", "hint", "suggestions") if hasattr(exc, name)}
    return {"kind": known.__name__, "fields": fields}


def _decode_error(error: Mapping[str, Any]) -> DeployError:
    kind: type[DeployError] = getattr(errors, error["kind"])
    exc = kind.__new__(kind, error["fields"]["message"])
    vars(exc).update(
        {name: tuple(value) if isinstance(value, list) else value for name, value in error["fields"].items()}
    )
    return exc


def _peak_bytes() -> int:
    """Return the peak memory of this process in bytes; 0 where the system does not report it."""
    try:  # getrusage would include what the parent used before this process became another program
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
