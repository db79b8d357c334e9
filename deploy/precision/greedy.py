"""In which order to put nodes back to float32: most noise avoided for the fewest operations first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from deploy.precision.survey import Survey, mean_square

LEAST = 1e-3
"""A step must avoid at least this share of the noise that is left, as long as any does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """Nodes that go back to float32 together.

    Attributes:
        avoided: noise that this avoids, as a squared share of the signal of the outputs.
        left: predicted noise of all that is still in half precision.
    """

    nodes: tuple[str, ...]
    avoided: float
    left: float


class Order:
    """Steps from a graph in half precision to one in float32.

    A value is rounded as long as a node that makes or reads it is in half precision, and a weight as long as its node
    is. So candidates are nodes, and values with all nodes that make and read them.
    """

    def __init__(
        self, survey: Survey, half: Collection[str], operations: Mapping[str, int], locked: Collection[str]
    ) -> None:
        """``half`` are the nodes in half precision at first; ``locked`` ones stay so."""
        self._operations = operations
        self._survey = survey
        self._half = set(half)
        self._locked = set(locked)
        self._around: dict[str, set[str]] = defaultdict(set)
        for key, node in survey.nodes.items():
            for name in (*node.inputs, *node.outputs):
                self._around[name].add(key)
        self._values = {name: mean_square(effects) for name, effects in survey.values.items()}
        self._weights = {key: node.noise for key, node in survey.nodes.items()}

    def noise(self) -> float:
        """Return the predicted noise, as a squared share of the signal of the outputs."""
        rounded = sum(noise for name, noise in self._values.items() if self._around[name] & self._half)
        return rounded + sum(self._weights[key] for key in self._half if key in self._weights)

    def __iter__(self) -> Iterator[Promotion]:
        left = self.noise()
        while left > 0.0:
            best = self._best(left)
            if best is None:
                return
            nodes, avoided = best
            self._half -= set(nodes)
            left = max(left - avoided, 0.0)
            yield Promotion(nodes=nodes, avoided=avoided, left=left)

    def _best(self, left: float) -> tuple[tuple[str, ...], float] | None:
        found: list[tuple[float, float, tuple[str, ...]]] = []
        candidates = {frozenset((key,)) for key in self._half} | {
            frozenset(around & self._half) for around in self._around.values()
        }
        for nodes in candidates:
            if not nodes or nodes & self._locked:
                continue
            avoided = self._avoided(nodes)
            cost = sum(self._operations.get(key, 0) for key in nodes)
            found.append((avoided, avoided / max(cost, 1), tuple(sorted(nodes))))
        useful = [item for item in found if item[0] >= LEAST * left] or [item for item in found if item[0] > 0.0]
        if not useful:
            return None
        avoided, _, chosen = max(useful, key=lambda item: (item[1], item[2]))
        return chosen, avoided

    def _avoided(self, nodes: frozenset[str]) -> float:
        rest = self._half - nodes
        facts = [self._survey.nodes[key] for key in nodes if key in self._survey.nodes]
        touched = {name for item in facts for name in (*item.inputs, *item.outputs)}
        values = sum(self._values.get(name, 0.0) for name in touched if not self._around[name] & rest)
        return values + sum(self._weights.get(key, 0.0) for key in nodes)
