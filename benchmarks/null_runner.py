"""A backend that computes nothing, to measure the overhead of the harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.core.runner import Feeds, Fetches, Runner


class NullRunner(Runner):
    """Does nothing."""

    inputs = ()
    outputs = ()

    def launch(self) -> None:
        """Do nothing."""

    def run(self, feeds: Feeds) -> Fetches:
        """Return no outputs."""
        return {}

    def fetch(self) -> Fetches:
        """Return no outputs."""
        return {}


def open(path: Path, **options: Any) -> NullRunner:
    """Return a runner; ``path`` and ``options`` are ignored."""
    return NullRunner()
