"""Work on many files at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deploy.core.environment import usable_cores
from deploy.core.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], progress: Progress) -> list[Result]:
    """Return the result for each item, in order; one thread per core, and progress after each item."""
    results = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for result in pool.map(function, items):
            results.append(result)
            progress.advance(len(results), len(items))
    return results
