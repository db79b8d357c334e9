"""The stream that results go to, apart from what the code of models and libraries prints."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click

_reserved: list[TextIO] = []


def stream() -> TextIO:
    """Return standard output as it is outside of `reserved`."""
    return _reserved[-1] if _reserved else sys.stdout


def echo(text: str, *, nl: bool = True) -> None:
    """Write text to the results."""
    click.echo(text, file=stream(), nl=nl)


@contextmanager
def reserved() -> Iterator[None]:
    """Keep standard output for results: what is printed meanwhile goes to standard error."""
    _reserved.append(stream())
    before, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = before
        _reserved.pop()


def keep_apart(command: click.Command) -> click.Command:
    """Run the callback of a command, or of the commands in a group, within `reserved`."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            keep_apart(inner)
    elif command.callback is not None and not hasattr(command.callback, "__kept_apart__"):
        command.callback = _apart(command.callback)
    return command


def _apart(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def run(*args: Any, **kwargs: Any) -> Any:
        with reserved():
            return callback(*args, **kwargs)

    run.__kept_apart__ = True  # type: ignore[attr-defined]
    return run
