"""Progress messages: functions send them, commands display them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Receives progress messages and ignores them; subclasses display or record them."""

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """A step that takes time; ``title`` names it, such as ``exporting``."""
        yield

    def note(self, text: str) -> None:
        """Something the user should know: a fallback, a substitution, a choice."""

    def detail(self, text: str) -> None:
        """A library's message, for verbose output."""

    def warn(self, text: str) -> None:
        """A warning."""

    def advance(self, done: int, total: int, text: str = "") -> None:
        """Progress of the current step: ``done`` of ``total``, with a description."""


class PythonWarnings(Progress):
    """Passes warnings on to Python's `warnings`, and ignores other messages."""

    def warn(self, text: str) -> None:
        """Issue a `UserWarning`."""
        warnings.warn(text, UserWarning, stacklevel=2)


SILENT = Progress()
