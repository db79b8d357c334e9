"""A sign of life on a terminal until a command draws something of its own.

A command may import PyTorch for seconds. The libraries it loads keep every thread of Python waiting for up to a second,
so the spinner is drawn by a process of its own, which is forked while this one is small and has one thread.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

_DELAY_S, _INTERVAL_S = 0.3, 0.1
"""Time before the first frame, which quick commands do not reach, and between frames."""
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PAUSE, _GO, _END = b"p", b"g", b"e"
_CLEAR = b"\r\x1b[2K"

_spinner: _Spinner | None = None


class _Spinner:
    """The process that draws, and the pipes to it: one for what it is told, one for its answers."""

    def __init__(self, text: str) -> None:
        theirs, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._orders)  # else it would never see that the other process is gone
            os.close(self._answers)
            _draw(text, theirs, answers)
        os.close(theirs)
        os.close(answers)

    def tell(self, order: bytes) -> None:
        """Send an order, and wait until a pause is in effect."""
        try:
            os.write(self._orders, order)
            if order == _PAUSE:
                os.read(self._answers, 1)
        except OSError:  # the process was killed
            pass

    def end(self) -> None:
        """Clear the line and end the process."""
        self.tell(_END)
        os.close(self._orders)
        os.close(self._answers)
        os.waitpid(self._pid, 0)


def _draw(text: str, orders: int, answers: int) -> NoReturn:
    """Draw until told to end, or until the other process is gone."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        began, frame, wait_s = time.monotonic(), 0, _DELAY_S
        while True:
            if not select.select([orders], [], [], wait_s)[0]:
                sign = _FRAMES[frame % len(_FRAMES)]
                os.write(2, _CLEAR + f"{sign} {text} {time.monotonic() - began:.0f} s".encode())
                frame, wait_s = frame + 1, _INTERVAL_S
                continue
            order = os.read(orders, 1)
            if frame:
                os.write(2, _CLEAR)
            if order != _PAUSE:
                break
            os.write(answers, order)
            if os.read(orders, 1) != _GO:
                break
    finally:
        os._exit(0)


def start(text: str) -> None:
    """Begin to draw after a moment, if stderr is a terminal that can."""
    global _spinner
    encoding = (getattr(sys.stderr, "encoding", None) or "").lower()
    able = sys.stderr.isatty() and encoding == "utf-8" and os.environ.get("TERM") != "dumb"
    if able and hasattr(os, "fork") and _spinner is None:
        _spinner = _Spinner(text)


def end() -> None:
    """Stop for good: the command draws or prints its result now."""
    global _spinner
    if _spinner is not None:
        spinner, _spinner = _spinner, None
        spinner.end()


@contextmanager
def paused() -> Iterator[None]:
    """Clear the line within this context, in which something is printed."""
    spinner = _spinner
    if spinner is not None:
        spinner.tell(_PAUSE)
    try:
        yield
    finally:
        if spinner is not None:
            spinner.tell(_GO)
