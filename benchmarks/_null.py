"""A backend that computes nothing: what is left is the harness's own time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.core.runner import Feeds, Fetches, Runner


class NullRunner(Runner):
    """Takes anything, gives nothing."""

    inputs = ()
    outputs = ()

    def launch(self) -> None:
        """Nothing."""

    def run(self, feeds: Feeds) -> Fetches:
        """Nothing."""
        return {}

    def fetch(self) -> Fetches:
        """Nothing."""
        return {}


def open(path: Path, **options: Any) -> NullRunner:
    """Open nothing."""
    return NullRunner()
