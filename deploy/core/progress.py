"""How a workflow tells what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """A listener that says nothing; commands pass one that draws."""

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """A step that takes time."""
        yield

    def note(self, text: str) -> None:
        """Something the user must know: a fallback, a substitution that was asked for, a choice made."""

    def detail(self, text: str) -> None:
        """What a library said: for those who asked to be told more."""

    def warn(self, text: str) -> None:
        """Something the user must not miss."""

    def advance(self, done: int, total: int, text: str = "") -> None:
        """How far the present step is."""


SILENT = Progress()
