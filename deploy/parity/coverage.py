"""How much of a file the parity check reached: weights, nodes, and the sides of data-dependent choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.core.plain import to_plain

MAX_NAMED = 200
"""Number of unreached sides that a report names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreached:
    """A side of a choice that no probe took.

    Attributes:
        node, operator: the node of the graph that makes the choice.
        module: the module that the node belongs to, as the exporter recorded it; empty if it did not.
        kind: ``branch``, ``loop``, ``mask``, ``comparison``, ``activation`` or ``clip``.
        by: ``data``, or ``size`` where only the sizes of the inputs decide.
        side: the side, such as ``then`` or ``above 6``.
    """

    node: str
    operator: str
    module: str
    kind: str
    by: str
    side: str

    def __str__(self) -> str:
        where = f" in {self.module}" if self.module else ""
        return f"{self.operator} {self.node}{where}: {self.side}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What the probes reached.

    Attributes:
        weights: number of the model's tensors that are ``identical`` in the graph, ``folded``, ``computed`` from
            weights alone, ``exercised`` (not found, but the output depends on them at a probe), or ``untouched``.
        untouched: names of the tensors that were neither found nor exercised.
        nodes, nodes_ran: nodes of the graph, those of subgraphs included, and those that ran.
        sides, sides_reached: sides of all choices, and those that a probe took.
        unreached: the other sides; at most `MAX_NAMED`.
        inputs: smallest and largest value of each input over all probes.
        directed: number of probes that were searched for a side.
    """

    weights: Mapping[str, int]
    untouched: tuple[str, ...]
    nodes: int
    nodes_ran: int
    sides: int
    sides_reached: int
    unreached: tuple[Unreached, ...]
    inputs: Mapping[str, tuple[float, float]]
    directed: int = 0

    @property
    def percent(self) -> float:
        """Share of weights, nodes and sides that were reached, each counted as one; rounded down to a tenth."""
        total = sum(self.weights.values()) + self.nodes + self.sides
        missed = self.weights.get("untouched", 0) + self.nodes - self.nodes_ran + self.sides - self.sides_reached
        return math.floor(1000.0 * (total - missed) / total) / 10 if total else 100.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"percent": self.percent, **to_plain(self)}

    def gaps(self) -> list[str]:
        """Return what was not reached, in a few phrases."""
        phrases = []
        branches = [item for item in self.unreached if item.kind in ("branch", "loop")]
        if branches:
            phrases.append(_phrase(branches, f"{_count(len(branches), 'branch', 'branches')} never taken"))
        others: dict[tuple[str, str], list[Unreached]] = {}
        for item in self.unreached:
            if item.kind not in ("branch", "loop"):
                others.setdefault((item.operator, item.side), []).append(item)
        for (operator, side), items in others.items():
            places = "" if len(items) == 1 else f" in {len(items)} places"
            phrases.append(_phrase(items, f"{operator} never {side}{places}"))
        if self.untouched:
            listed = ", ".join(self.untouched[:3]) + (" …" if len(self.untouched) > 3 else "")
            phrases.append(f"weights that no probe reached: {listed}")
        return phrases


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _phrase(items: Sequence[Unreached], text: str) -> str:
    first = items[0].module or items[0].node
    return f"{text} ({first}{' …' if len(items) > 1 else ''})"


def open_branches(coverage: Coverage) -> list[Unreached]:
    """Return the branches and loops decided by data of which no probe took one side."""
    return [item for item in coverage.unreached if item.kind in ("branch", "loop") and item.by == "data"]
