"""A runner that only reads memory: its rate is the memory bandwidth."""

from __future__ import annotations

from pathlib import Path

import torch

from deploy.core.runner import Feeds, Fetches, Runner


class MemoryRunner(Runner):
    """Sums the same array in every run."""

    inputs = ()
    outputs = ()

    def __init__(self, bytes: int) -> None:
        self._array = torch.ones(bytes // 4)

    def run(self, feeds: Feeds) -> Fetches:
        """Read the array and return its sum."""
        return {"sum": self._array.sum().numpy()}

    def launch(self) -> None:
        """Read the array."""
        self._array.sum()


def open(_: Path, *, bytes: int, threads: int) -> MemoryRunner:
    """Allocate an array that ``threads`` threads share to read."""
    torch.set_num_threads(threads)
    return MemoryRunner(bytes)
