"""A sweep on a terminal: what it is doing, what it did, what it would do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from deploy.support.formatting import duration, spread
from deploy.terminal.markup import escape
from deploy.terminal.results import console, rows

if TYPE_CHECKING:
    from deploy.sweeps.sweep import DryRun, Found, SweepReport
    from deploy.sweeps.task import Task

COLORS = {"done": "green", "found": "green", "kept": "green", "failed": "bold red", "skipped": "yellow"}
SHOWN = 12
"""Running tasks that are shown at a time."""


class SweepTable:
    """What runs, with what it is doing, and how much is left; finished tasks are lines above."""

    def __init__(self, live: Live, total: int) -> None:
        self._live, self._total = live, total
        self._doing: dict[str, str] = {}
        self._ended: Counter[str] = Counter()
        self._began = time.monotonic()

    def __call__(self, task: Task, state: str, text: str) -> None:
        """Take what a task tells."""
        out = self._live.console
        if state in COLORS:
            self._doing.pop(task.name, None)
            self._ended[state] += 1
            if state != "kept":
                why = f": {escape(text)}" if text else ""
                out.print(f"[{COLORS[state]}]{state:>7}[/] {escape(task.name)}{why}", highlight=False)
        elif state == "again":
            self._doing.pop(task.name, None)
            out.print(f"[yellow]  again[/] {escape(task.name)}: {escape(text)}", highlight=False)
        elif state == "warn":
            out.print(f"[bold yellow]WARNING:[/] {escape(task.name)}: {escape(text)}", highlight=False)
        elif state != "note":
            self._doing[task.name] = "" if state == "begun" else text
        self._draw()

    def _draw(self) -> None:
        ended = sum(self._ended.values())
        told = ", ".join(f"{count} {state}" for state, count in self._ended.items())
        elapsed = time.monotonic() - self._began
        head = f"{ended} of {self._total} tasks{f' ({told})' if told else ''}, {elapsed:.0f} s"
        lines: list[Any] = [Text(head, style="bold")]
        for name, text in list(self._doing.items())[:SHOWN]:
            lines.append(Spinner("dots", f"{escape(name)}  [dim]{escape(text)}[/]"))
        if len(self._doing) > SHOWN:
            lines.append(Text(f"  and {len(self._doing) - SHOWN} more"))
        self._live.update(Group(*lines))


@contextmanager
def board(out: Console, total: int) -> Iterator[SweepTable]:
    """A `SweepTable` on a terminal."""
    with Live(console=out, refresh_per_second=8, transient=True) as live:
        yield SweepTable(live, total)


def show_sweep(report: SweepReport) -> None:
    """Every cell, a group of columns for each kind of machine; what failed; how long it took."""
    out = console(piped=150)
    out.print(_table(report.found))
    failed = [item for item in report.outcomes if not item.well]
    out.print(rows((f"[bold red]{item.state}[/]", escape(f"{item.task.name}: {item.why}")) for item in failed))
    told = {item.why for item in failed}
    out.print(rows(_absences([item for item in report.found if not any(why in item.why for why in told)])))
    states = Counter(item.state for item in report.outcomes)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    out.print(f"{len(report.outcomes)} tasks: {counts}; {report.work_seconds:.0f} s of work in {report.seconds:.0f} s")


def _table(found: Sequence[Found]) -> Table:
    machines = list(dict.fromkeys(item.cell.machine for item in found))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("model", "backend", "precision"):
        table.add_column(name, overflow="fold")
    table.add_column("batch", justify="right")
    for machine in machines:
        table.add_column(escape(machine or "latency"), justify="right", no_wrap=True)
        table.add_column("95 %", justify="right", no_wrap=True)
    lines: dict[tuple[str, str, str, str], dict[str | None, list[str]]] = {}
    for item in found:
        cell = item.cell
        what = (cell.model, cell.backend, cell.precision, str(cell.batch))
        lines.setdefault(what, {})[cell.machine] = _cells(item)
    for what, cells in lines.items():
        groups = (cells.get(machine, ["", ""]) for machine in machines)
        table.add_row(*map(escape, [*what, *(text for group in groups for text in group)]))
    return table


def _cells(item: Found) -> list[str]:
    stats = item.row.stats if item.row else None
    if stats is None:
        return ["–", ""]
    return [duration(stats.median.value), spread(stats.median.value, stats.median.low, stats.median.high)]


def _absences(found: Sequence[Found]) -> Iterator[tuple[str, str]]:
    """The same reason once, with what it holds for."""
    reasons: dict[str, list[str]] = {}
    for item in found:
        if item.why:
            cell = item.cell
            where = f" on {cell.machine}" if cell.machine else ""
            reasons.setdefault(item.why, []).append(f"{cell.model} {cell.backend} {cell.precision}{where}")
    for why, cells in reasons.items():
        distinct = list(dict.fromkeys(cells))
        shown = ", ".join(distinct[:4]) + (f" and {len(distinct) - 4} more" if len(distinct) > 4 else "")
        yield escape(shown), escape(why)


def show_dry_run(dry: DryRun) -> None:
    """The matrix, its tasks, and what they may cost."""
    out = console(piped=150)
    plan = dry.plan
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("task", "state", "on"):
        table.add_column(name, overflow="fold")
    table.add_column("may take", justify="right")
    for task in plan.tasks:
        seconds = dry.seconds.get(task.name)
        cost = "" if dry.states[task.name] == "kept" else "unknown" if seconds is None else f"{seconds:.1f} s"
        table.add_row(*map(escape, (task.name, dry.states[task.name], task.machine or "any", cost)))
    out.print(table)
    sizes: dict[str, set[Any]] = {
        "models": {cell.model for cell in plan.cells},
        "precisions": {cell.precision for cell in plan.cells},
        "backends": {cell.backend for cell in plan.cells},
        "batches": {cell.batch for cell in plan.cells},
        "kinds of machines": {cell.machine for cell in plan.cells},
    }
    out.print(f"{len(plan.cells)} cells: " + " × ".join(f"{len(values)} {name}" for name, values in sizes.items()))
    left = sum(state != "kept" for state in dry.states.values())
    out.print(f"{len(plan.tasks)} tasks, {left} to do: {_cost(dry, left)}")


def _cost(dry: DryRun, left: int) -> str:
    if not left:
        return "nothing"
    known = f"about {dry.known_seconds:.0f} s of work, by the records of earlier sweeps here"
    if dry.unknown == left:
        return "what they cost is not known: no earlier sweep is recorded here"
    return known + (f", and {dry.unknown} tasks that no record tells of" if dry.unknown else "")
