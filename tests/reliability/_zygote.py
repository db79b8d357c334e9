"""Run command lines in forks of a process that has imported everything and started no threads.

It reads a request a line, ``{"words": …, "kill_after_s": …, "memory": …}``, and answers with the status, negative for a
signal. A test process cannot fork for that itself: it has the threads of runtimes, whose locks a fork would inherit.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from contextlib import suppress
from typing import Any

import onnx  # noqa: F401  (imported once, for all forks)
import onnxruntime  # noqa: F401
import torch  # noqa: F401

from deploy.bench import measure  # noqa: F401
from deploy.cli.main import main
from deploy.engines import build  # noqa: F401
from deploy.exporting import check, export  # noqa: F401
from deploy.quantization import quantize  # noqa: F401
from deploy.tools import inspect  # noqa: F401
from deploy.training import train  # noqa: F401


def serve() -> None:
    """Answer until the requests end."""
    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    for line in sys.stdin:
        answers.write(f"{run(**json.loads(line))}\n")
        answers.flush()


def run(words: list[str], kill_after_s: float | None, memory: int | None) -> int:
    """One command line in a fork with a process group of its own; SIGKILL to all of it after so many seconds."""
    child = os.fork()
    if child == 0:
        _command(words, memory)
    with suppress(OSError):  # here and in the child: whoever comes first, it is done before anybody is killed
        os.setpgid(child, child)
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], kill_after_s)[0]:
            os.killpg(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(handle)


def _command(words: list[str], memory: int | None) -> Any:
    code = 99
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        main(words)
    except SystemExit as exc:
        code = int(exc.code or 0)
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
