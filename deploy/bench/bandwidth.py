"""A backend that only reads: what it reaches is the bandwidth of memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deploy.core.runner import Feeds, Fetches, Runner


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryOptions:
    """What is read.

    Attributes:
        bytes: the same ones in every run.
        threads: that share the reading; 0 leaves it to PyTorch.
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
        """Read, and tell the sum."""
        return {"sum": self._array.sum().numpy()}

    def launch(self) -> None:
        """Read."""
        self._array.sum()


def open(path: Path, **options: Any) -> MemoryRunner:
    """Open memory; the path says nothing."""
    return MemoryRunner(MemoryOptions(**options))
