"""Rows of several machines side by side: a line for what was timed, a group of columns for every kind of machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.support.formatting import UNKNOWN, duration, spread, times_faster

Plain = Mapping[str, Any]
HEADS = ("latency", "faster")
"""Columns of a group."""


@dataclass(frozen=True, slots=True)
class Line:
    """What was timed on one or more machines.

    Attributes:
        what: model, backend, precision, batch, and what else tells it from the others.
        cells: a group of texts for each machine, in the order of `MachineColumns.machines`; dashes where
            nothing was timed.
    """

    what: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class MachineColumns:
    """The table: kinds of machines, and lines."""

    machines: tuple[str, ...]
    lines: tuple[Line, ...]


WHAT = ("architecture", "backend", "precision", "batch", "threads")


def side_by_side(rows: Sequence[Plain], machines: Sequence[Plain]) -> MachineColumns | None:
    """The table; None where all rows are of one machine.

    Args:
        rows: of a report (see `deploy.report.write.describe`), each with the position of its machine.
        machines: of the report.
    """
    names = [str(item["machine"].get("kind") or f"machine {place + 1}") for place, item in enumerate(machines)]
    kinds = tuple(sorted({names[row["machine"]] for row in rows}))
    if len(kinds) < 2:
        return None
    lines: dict[tuple[str, ...], list[dict[str, tuple[str, ...]]]] = {}
    for row in rows:
        kind, same = names[row["machine"]], lines.setdefault(_what(row), [])
        line = next((cells for cells in same if kind not in cells), None)
        if line is None:  # another device, size or rate on the same machine: a line of its own
            same.append(line := {})
        line[kind] = _cells(row)
    nothing = (UNKNOWN,) * len(HEADS)
    return MachineColumns(
        machines=kinds,
        lines=tuple(
            Line(what=what, cells=tuple(cells.get(kind, nothing) for kind in kinds))
            for what, same in lines.items()
            for cells in same
        ),
    )


def _what(row: Plain) -> tuple[str, ...]:
    scenario = "" if row["scenario"] == "latency" else f" ({row['scenario']})"
    graph = " +graph" if row["options"].get("graph") else ""
    return row["slug"], f"{row['backend']}{graph}{scenario}", row["precision"], str(row["batch"]), str(row["threads"])


def _cells(row: Plain) -> tuple[str, ...]:
    if row["latency"] is None:
        return "failed", UNKNOWN
    median = row["latency"]["median_ns"]
    latency = f"{duration(median['value'])} {spread(**median)}".removesuffix(f" {UNKNOWN}")
    faster = times_faster(**row["speedup"]).removesuffix(f" {UNKNOWN}") if row["speedup"] else ""
    return latency, faster
