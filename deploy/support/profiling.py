"""Aggregate the events of backends' profilers to one time per node."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

Event = tuple[str, str, str, float]
"""One run of a node: its name, its operator, ``int8`` or ``float``, and nanoseconds."""


def node_times(events: Iterable[Event], calls: int) -> list[dict[str, Any]]:
    """Return the time of each node in one call: the median of its runs times its runs per call.

    The median is robust against the first runs, which are slow.

    Returns:
        For each node ``layer``, ``operator``, ``arithmetic`` and ``ns``.
    """
    runs_by_node: dict[tuple[str, str, str], list[float]] = {}
    for layer, operator, arithmetic, ns in events:
        runs_by_node.setdefault((layer, operator, arithmetic), []).append(ns)
    return [
        {"layer": layer, "operator": operator, "arithmetic": arithmetic, "ns": median(runs) * len(runs) / calls}
        for (layer, operator, arithmetic), runs in runs_by_node.items()
        if any(runs)
    ]
