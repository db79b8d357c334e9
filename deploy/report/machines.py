"""Results of several machines side by side: one line per configuration, a group of columns per machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.report.rows import JsonObject
from deploy.report.tables import latency_text, speedup_text
from deploy.support.formatting import UNKNOWN

CONFIGURATION_HEADS = ("model", "backend", "precision", "batch", "threads")
MACHINE_HEADS = ("latency", "speedup")
"""Heads of the columns of each machine."""


@dataclass(frozen=True, slots=True)
class MachineColumns:
    """The table.

    Attributes:
        machines: names of the machines.
        lines: texts under `CONFIGURATION_HEADS`, followed by those under `MACHINE_HEADS` of each machine; dashes for a
            machine without a timing.
    """

    machines: tuple[str, ...]
    lines: list[list[str]]


def side_by_side(rows: Sequence[JsonObject], machines: Sequence[JsonObject]) -> MachineColumns | None:
    """Return the table; None if all rows are of one machine."""
    names = [str(item["machine"].get("kind") or f"machine {index + 1}") for index, item in enumerate(machines)]
    kinds = tuple(sorted({names[row["machine"]] for row in rows}))
    if len(kinds) < 2:
        return None
    lines: dict[tuple[str, ...], list[dict[str, tuple[str, ...]]]] = {}
    for row in rows:
        kind, same = names[row["machine"]], lines.setdefault(_configuration(row), [])
        line = next((cells for cells in same if kind not in cells), None)
        if line is None:  # another device, size or rate on the same machine gets a line of its own
            same.append(line := {})
        line[kind] = (latency_text(row), speedup_text(row) if row["latency"] else UNKNOWN)
    nothing = (UNKNOWN,) * len(MACHINE_HEADS)
    return MachineColumns(
        machines=kinds,
        lines=[
            [*configuration, *(text for kind in kinds for text in cells.get(kind, nothing))]
            for configuration, same in lines.items()
            for cells in same
        ],
    )


def _configuration(row: JsonObject) -> tuple[str, ...]:
    scenario = "" if row["scenario"] == "latency" else f" ({row['scenario']})"
    graph = " +graph" if row["options"].get("graph") else ""
    return row["slug"], f"{row['backend']}{graph}{scenario}", row["precision"], str(row["batch"]), str(row["threads"])
