"""A runner that only reads memory: its rate is the memory bandwidth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deploy.core.runner import Feeds, Fetches, Runner


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryOptions:
    """What to read.

    Attributes:
        bytes: size of the array that every run reads.
        threads: threads that share the reading; 0 leaves the choice to PyTorch.
    """

    bytes: int = 1 << 26
    threads: int = 0


class MemoryRunner(Runner):
    """Sums the same array in every run."""

    inputs = ()
    outputs = ()

    def __init__(self, options: MemoryOptions) -> None:
        if options.threads:
            torch.set_num_threads(options.threads)
        self._array = torch.ones(options.bytes // 4)

    def run(self, feeds: Feeds) -> Fetches:
        """Read the array and return its sum."""
        return {"sum": self._array.sum().numpy()}

    def launch(self) -> None:
        """Read the array."""
        self._array.sum()


def open(path: Path, **options: Any) -> MemoryRunner:
    """Allocate the array; ``path`` is ignored.

    Args:
        path: ignored.
        options: fields of `MemoryOptions`.
    """
    return MemoryRunner(MemoryOptions(**options))
