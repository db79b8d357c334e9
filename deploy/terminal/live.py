"""Progress on a terminal: a live display with messages above it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from deploy.core import interrupt
from deploy.core.progress import Progress
from deploy.terminal import waiting
from deploy.terminal.console import escape


class ConsoleProgress(Progress):
    """Prints messages above a live display."""

    def __init__(self, console: Console, verbose: bool = False) -> None:
        self._console, self._verbose = console, verbose

    def note(self, text: str) -> None:
        """Print a note."""
        self._print(f"[dim]note:[/dim] {escape(text)}")

    def detail(self, text: str) -> None:
        """Print a detail if verbose."""
        if self._verbose:
            self._print(f"[dim]{escape(text)}[/dim]")

    def warn(self, text: str) -> None:
        """Print a framed warning."""
        self._print(Panel(escape(text), title="WARNING", border_style="bold yellow"))

    def _print(self, what: Any) -> None:
        with waiting.paused():
            self._console.print(what, highlight=False)


class LiveProgress(ConsoleProgress):
    """A spinner per stage, with a bar if its length is known, and the elapsed time."""

    def __init__(self, bar: Bar, verbose: bool = False) -> None:
        super().__init__(bar.console, verbose)
        self._bar = bar
        self._task: TaskID | None = None
        self._title = ""

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show a stage while it runs; its line stays, with the time it took."""
        interrupt.check()
        self._title = title
        waiting.end()
        self._bar.start()
        self._task = task = self._bar.add_task(escape(title), total=None)
        try:
            yield
            interrupt.check()
            self._bar.update(task, total=1, completed=1, description=escape(title))
        finally:
            self._bar.stop_task(task)

    def advance(self, done: int, total: int, text: str = "") -> None:
        """Move the bar of the current stage."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=escape(text or self._title))


@contextmanager
def live_progress(verbose: bool) -> Iterator[Progress]:
    """Open a live display on stderr."""
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
    out = Console(file=sys.stderr)  # this stream: an exporter redirects sys.stderr for seconds
    bar = Bar(*columns, console=out)  # started by the first stage; before it, the spinner turns
    try:
        yield LiveProgress(bar, verbose)
    finally:
        bar.stop()
