"""What backends' profilers gave, call by call, as one time a node."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

Event = tuple[str, str, str, float]
"""A node as it ran once: its name, its operator, ``int8`` or ``float``, and nanoseconds."""


def by_node(events: Iterable[Event], calls: int) -> list[dict[str, Any]]:
    """A node's time in one call: the median of its runs, times its runs in a call; the first ones are slow.

    Args:
        events: of all calls.
        calls: their number.

    Returns:
        ``layer``, ``operator``, ``arithmetic`` and ``ns``.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for layer, operator, arithmetic, spent in events:
        found.setdefault((layer, operator, arithmetic), []).append(spent)
    return [
        {"layer": layer, "operator": operator, "arithmetic": arithmetic, "ns": median(runs) * len(runs) / calls}
        for (layer, operator, arithmetic), runs in found.items()
        if any(runs)
    ]
