"""What a command is doing, on stderr: a live display on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.core import interrupt
from deploy.core.progress import Progress
from deploy.core.text import visible


class Plain(Progress):
    """One line a stage; for logs and pipes."""

    def __init__(self, quiet: bool, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose

    def _line(self, text: str) -> None:
        print(visible(text), file=sys.stderr, flush=True)  # noqa: T201  (the one place that writes plain lines)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Name the stage, then how long it took."""
        interrupt.check()
        began = time.perf_counter()
        yield
        interrupt.check()
        if not self.quiet:
            self._line(f"{title}: {time.perf_counter() - began:.1f} s")

    def note(self, text: str) -> None:
        """A line."""
        if not self.quiet:
            self._line(f"note: {text}")

    def detail(self, text: str) -> None:
        """A line for those who asked to be told more."""
        if self.verbose:
            self._line(text)

    def warn(self, text: str) -> None:
        """A line that is never left out."""
        self._line(f"WARNING: {text}")


@contextmanager
def display(*, quiet: bool = False, verbose: bool = False, drawn: bool = True) -> Iterator[Progress]:
    """A listener that fits where stderr goes; what draws on a terminal is imported only for one."""
    if quiet or not drawn or not sys.stderr.isatty():
        yield Plain(quiet, verbose)
        return
    from deploy.terminal.live import live

    with live(verbose) as listener:
        yield listener
