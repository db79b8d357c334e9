"""In what order things are timed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def interleaved(items: Sequence[Item], repetitions: int, seed: int) -> Iterator[tuple[int, Item]]:
    """Every item once in each repetition, in an order drawn anew for each: what drifts on the machine hits all alike.

    Yields:
        The number of the repetition, and the item.
    """
    order = random.Random(seed)
    for number in range(repetitions):
        yield from ((number, item) for item in order.sample(list(items), len(items)))
