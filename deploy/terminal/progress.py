"""Progress on stderr: a live display on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.core import interrupt
from deploy.core.progress import Progress
from deploy.core.text import visible
from deploy.terminal import waiting


class LineProgress(Progress):
    """One line per stage, for logs and pipes."""

    def __init__(self, quiet: bool, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose

    def _line(self, text: str) -> None:
        with waiting.paused():
            print(visible(text), file=sys.stderr, flush=True)  # noqa: T201

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Print the title and the time of a stage when it ends."""
        interrupt.check()
        began = time.perf_counter()
        yield
        interrupt.check()
        if not self.quiet:
            self._line(f"{title}: {time.perf_counter() - began:.1f} s")

    def note(self, text: str) -> None:
        """Print a note unless quiet."""
        if not self.quiet:
            self._line(f"note: {text}")

    def detail(self, text: str) -> None:
        """Print a detail if verbose."""
        if self.verbose:
            self._line(text)

    def warn(self, text: str) -> None:
        """Print a warning, even if quiet."""
        self._line(f"WARNING: {text}")


@contextmanager
def display(*, quiet: bool = False, verbose: bool = False, drawn: bool = True) -> Iterator[Progress]:
    """Open the progress display that suits stderr; ``drawn=False`` is for a command that draws its own."""
    if quiet or not drawn or not sys.stderr.isatty():
        yield LineProgress(quiet, verbose)
        return
    from deploy.terminal.live import live_progress  # imports Rich, which pipes and logs do not need

    with live_progress(verbose) as progress:
        yield progress
