"""SIGINT and SIGTERM as exceptions that are not lost if a library swallows them.

The handler remembers the signal and raises `Stopped`. `check`, which is called between stages and before anything is
published, raises it again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_received: list[int] = []


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived; ``number`` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Stopped` within this context, so that partial results are discarded."""
    _received.clear()
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pending() -> bool:
    """Return whether a signal arrived; for callbacks that must not raise."""
    return bool(_received)


def check() -> None:
    """Raise `Stopped` again if a library swallowed it."""
    if _received:
        raise Stopped(_received[0])
