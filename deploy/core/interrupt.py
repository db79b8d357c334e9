"""A signal to stop is not lost, even if a library swallows the exception that it raised.

The handler remembers the signal and raises; `check`, called between stages and before anything is published, raises
again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_received: list[int] = []


class Stopped(BaseException):
    """SIGINT or SIGTERM; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within this context SIGINT and SIGTERM raise `Stopped`, so that what is half done is undone."""
    _received.clear()
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pending() -> bool:
    """Whether a signal came: for callbacks out of which nothing can be raised."""
    return bool(_received)


def check() -> None:
    """Raise again if a signal came and was swallowed.

    Raises:
        Stopped: it did.
    """
    if _received:
        raise Stopped(_received[0])
