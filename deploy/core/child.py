"""A child process that answers requests, from both sides: one that dies or hangs is an error, not the command's end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from deploy.core import wire
from deploy.core.errors import BackendCrashedError, BackendError, DeployError
from deploy.core.runner import Feeds, Fetches

Answer = Callable[[dict[str, Any], Fetches], tuple[dict[str, Any], Fetches]]
"""From a request and its arrays to the reply and its arrays."""
Say = Callable[[Mapping[str, Any]], None]
"""Sends a message before the reply."""
INTERIM = "interim"
"""The key under which such a message comes."""


class Child:
    """``python -m module``, spoken to with `deploy.core.wire` on its standard streams.

    Args:
        module: what it runs; it answers every message with one message, an error with ``error`` and ``hint``.
        name: what it is called in errors.
        arguments: of the module.
        environment: the child's environment; None for our own.
    """

    def __init__(
        self, module: str, name: str, arguments: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._late = 0.0
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=None if environment is None else dict(environment),
        )

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def send(self, message: Mapping[str, Any], arrays: Feeds | None = None) -> None:
        """Send a request.

        Raises:
            BackendCrashedError: it has died.
        """
        try:
            wire.send(cast(BinaryIO, self._process.stdin), message, arrays)
        except OSError as exc:
            raise self._died() from exc

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], Fetches]:
        """Wait for the answer to the last request.

        Raises:
            BackendError: it answered that it failed.
            BackendCrashedError: it died, or gave no answer in time and was ended.
        """
        watch = threading.Timer(timeout_s, self._give_up, (timeout_s,)) if timeout_s else None
        if watch:
            watch.start()
        try:
            reply, arrays = wire.receive(cast(BinaryIO, self._process.stdout))
        except EOFError as exc:
            raise self._died() from exc
        finally:
            if watch:
                watch.cancel()
        if "error" in reply:
            raise BackendError(reply["error"], reply["hint"])
        return reply, arrays

    def call(
        self, message: Mapping[str, Any], arrays: Feeds | None = None, timeout_s: float | None = None
    ) -> tuple[dict[str, Any], Fetches]:
        """`send`, then `receive`."""
        self.send(message, arrays)
        return self.receive(timeout_s)

    def terminate(self, grace_s: float) -> None:
        """Ask it to end, so that it can undo what is half done, then `close` it.

        Args:
            grace_s: seconds it has for that.
        """
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        self.close()

    def close(self) -> None:
        """End it, busy or not."""
        if not self.dead:
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # an unsent request to a child that is gone
                    continue
        self._process.wait()
        self._log.close()

    def _give_up(self, after_s: float) -> None:
        self._late = after_s
        self._process.kill()

    def _died(self) -> BackendCrashedError:
        code = self._process.wait()
        if self._late:
            return BackendCrashedError(f"the process of {self.name} gave no answer in {self._late:g} s and was ended.")
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self._log.seek(0)
        last = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()[-1:]
        hint = "the machine may have run out of memory" if code == -signal.SIGKILL else None
        return BackendCrashedError(f"the process of {self.name} {how}{': ' if last else '.'}{''.join(last)}", hint)


def serve(answer: Answer) -> None:
    """The child's side: answer requests until the parent closes the pipe.

    Every reply carries ``peak_bytes``, the most memory this process has held.
    """
    serve_saying(lambda say: answer)


def serve_saying(answer_with: Callable[[Say], Answer]) -> None:
    """`serve`, for what has something to say before it answers.

    Args:
        answer_with: gets what sends such messages, each under the key `INTERIM`, and gives what answers.
    """
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not break the protocol
    answer = answer_with(lambda message: wire.send(replies, {INTERIM: dict(message)}))
    while True:
        try:
            request, arrays = wire.receive(requests)
        except EOFError:
            return
        fetches: Fetches = {}
        try:
            reply, fetches = answer(request, arrays)
        except DeployError as exc:
            reply = {"error": exc.message, "hint": exc.hint}
        except (MemoryError, Exception) as exc:
            reply = {"error": f"{type(exc).__name__}: {exc}".rstrip(": "), "hint": None}
        wire.send(replies, {**reply, "peak_bytes": peak_bytes()}, fetches)


def peak_bytes() -> int:
    """The most memory this process has held, in bytes; 0 where the system does not tell."""
    try:  # the usual call also counts what the parent held before this process became another program
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
