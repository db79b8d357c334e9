"""Kinds of faults of an exported graph, for `benchmarks.faults`.

Categories: ``static`` (weights, operators, attributes, outputs), ``table``, ``input`` (wrong only where a condition on
the values of the input holds), ``size``, ``batch``, ``chance`` and ``dtype``.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.fault_conditions import BATCHES, CORRUPTIONS, SIZES, VALUES, conditional
from benchmarks.fault_graph import Plant
from benchmarks.fault_static import CHANCE, DTYPES, STATIC, TABLES, WHOLE_BATCH


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault."""

    name: str
    category: str
    plant: Plant


def _kinds() -> tuple[Kind, ...]:
    """Return all kinds; conditions are combined with corruptions and mechanisms in turn."""
    groups = {"static": STATIC, "table": TABLES, "chance": CHANCE, "dtype": DTYPES, "batch": WHOLE_BATCH}
    kinds = [Kind(name, category, plant) for category, group in groups.items() for name, plant in group.items()]
    corruptions, mechanisms = list(CORRUPTIONS), ("Where", "If", "arithmetic")
    for category, conditions in (("input", VALUES), ("size", SIZES), ("batch", BATCHES)):
        for index, (name, condition) in enumerate(conditions.items()):
            for turn in range(2):
                corruption = corruptions[(index + 2 * turn) % len(corruptions)]
                mechanism = mechanisms[(index + turn) % len(mechanisms)]
                title = f"{corruption} where {name}, by {mechanism}"
                kinds.append(Kind(title, category, conditional(condition, corruption, mechanism)))
    return tuple(kinds)


KINDS = _kinds()
