"""Terminal output of ``deploy sweep``: the running tasks, the results, and the plan of a dry run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from deploy.support.formatting import UNKNOWN, duration, spread
from deploy.terminal import waiting
from deploy.terminal.console import console, escape, rows, table

if TYPE_CHECKING:
    from rich.table import Table

    from deploy.sweeps.sweep import CellResult, DryRun, SweepReport
    from deploy.sweeps.task import Task

COLORS = {"done": "green", "found": "green", "kept": "green", "failed": "bold red", "skipped": "yellow"}
"""Colors of the states in which a task ends."""
TASKS_SHOWN = 12


class SweepTable:
    """Running tasks with their current step, and the number of tasks left; tasks that ended are lines above it."""

    def __init__(self, live: Live, total: int) -> None:
        self._live, self._total = live, total
        self._running: dict[str, str] = {}
        self._ended: Counter[str] = Counter()
        self._began = time.monotonic()

    def __call__(self, task: Task, state: str, text: str) -> None:
        """Update the display; see `deploy.sweeps.drive.Watch`."""
        out = self._live.console
        if state in COLORS:
            self._running.pop(task.name, None)
            self._ended[state] += 1
            if state != "kept":
                reason = f": {escape(text)}" if text else ""
                out.print(f"[{COLORS[state]}]{state:>7}[/] {escape(task.name)}{reason}", highlight=False)
        elif state == "again":
            self._running.pop(task.name, None)
            out.print(f"[yellow]  again[/] {escape(task.name)}: {escape(text)}", highlight=False)
        elif state == "warn":
            out.print(f"[bold yellow]WARNING:[/] {escape(task.name)}: {escape(text)}", highlight=False)
        elif state != "note":
            self._running[task.name] = "" if state == "begun" else text
        self._draw()

    def _draw(self) -> None:
        ended = sum(self._ended.values())
        counts = f" ({_counts(self._ended)})" if ended else ""
        elapsed = time.monotonic() - self._began
        lines: list[Any] = [Text(f"{ended} of {self._total} tasks{counts}, {elapsed:.0f} s", style="bold")]
        for name, text in list(self._running.items())[:TASKS_SHOWN]:
            lines.append(Spinner("dots", f"{escape(name)}  [dim]{escape(text)}[/]"))
        if len(self._running) > TASKS_SHOWN:
            lines.append(Text(f"  and {len(self._running) - TASKS_SHOWN} more"))
        self._live.update(Group(*lines))


@contextmanager
def live_table(out: Console, total: int) -> Iterator[SweepTable]:
    """Open a `SweepTable` on a terminal."""
    waiting.end()
    with Live(console=out, refresh_per_second=8, transient=True) as live:
        yield SweepTable(live, total)


def show_sweep(report: SweepReport) -> None:
    """Print the latencies, a pair of columns per kind of machine, then the tasks that failed and the total time."""
    out = console(piped=150)
    out.print(_latencies(report.cells))
    failed = [item for item in report.outcomes if not item.succeeded]
    out.print(rows((f"[bold red]{item.state}[/]", escape(f"{item.task.name}: {item.reason}")) for item in failed))
    reasons = {item.reason for item in failed}
    out.print(rows(_skipped([item for item in report.cells if not any(reason in item.reason for reason in reasons)])))
    counts = _counts(Counter(item.state for item in report.outcomes))
    out.print(f"{len(report.outcomes)} tasks: {counts}; {report.work_seconds:.0f} s of work in {report.seconds:.0f} s")


def _counts(states: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items())


def _latencies(results: Sequence[CellResult]) -> Table:
    machines = list(dict.fromkeys(item.cell.machine for item in results))
    numbers = ["batch", *(head for machine in machines for head in (escape(machine or "latency"), "95 % CI"))]
    result = table("model", "backend", "precision", *numbers, numbers=numbers)
    lines: dict[tuple[str, str, str, str], dict[str | None, list[str]]] = {}
    for item in results:
        cell = item.cell
        configuration = (cell.model, cell.backend, cell.precision, str(cell.batch))
        lines.setdefault(configuration, {})[cell.machine] = _latency(item)
    for configuration, cells in lines.items():
        groups = (cells.get(machine, ["", ""]) for machine in machines)
        result.add_row(*map(escape, [*configuration, *(text for group in groups for text in group)]))
    return result


def _latency(item: CellResult) -> list[str]:
    stats = item.row.stats if item.row else None
    if stats is None:
        return [UNKNOWN, ""]
    return [duration(stats.median.value), spread(stats.median.value, stats.median.low, stats.median.high)]


def _skipped(results: Sequence[CellResult]) -> Iterator[tuple[str, str]]:
    """Yield each reason once, with the configurations it applies to."""
    reasons: dict[str, list[str]] = {}
    for item in results:
        if item.reason:
            cell = item.cell
            where = f" on {cell.machine}" if cell.machine else ""
            reasons.setdefault(item.reason, []).append(f"{cell.model} {cell.backend} {cell.precision}{where}")
    for reason, names in reasons.items():
        distinct = list(dict.fromkeys(names))
        shown = ", ".join(distinct[:4]) + (f" and {len(distinct) - 4} more" if len(distinct) > 4 else "")
        yield escape(shown), escape(reason)


def show_dry_run(dry: DryRun) -> None:
    """Print the tasks of a sweep, the size of its matrix, and the estimated time."""
    out = console(piped=150)
    plan = dry.plan
    tasks = table("task", "state", "machine", "estimate", numbers=("estimate",))
    for task in plan.tasks:
        seconds = dry.seconds.get(task.name)
        cost = "" if dry.states[task.name] == "kept" else "unknown" if seconds is None else f"{seconds:.1f} s"
        tasks.add_row(*map(escape, (task.name, dry.states[task.name], task.machine or "any", cost)))
    out.print(tasks)
    sizes: dict[str, set[Any]] = {
        "models": {cell.model for cell in plan.cells},
        "precisions": {cell.precision for cell in plan.cells},
        "backends": {cell.backend for cell in plan.cells},
        "batches": {cell.batch for cell in plan.cells},
        "kinds of machines": {cell.machine for cell in plan.cells},
    }
    matrix = " × ".join(f"{len(values)} {name}" for name, values in sizes.items())
    out.print(f"{len(plan.cells)} configurations: {matrix}")
    left = sum(state != "kept" for state in dry.states.values())
    out.print(f"{len(plan.tasks)} tasks, {left} to do" + (f": {_estimate(dry, left)}" if left else ""))


def _estimate(dry: DryRun, left: int) -> str:
    if dry.unknown == left:
        return "no time estimate, because no earlier sweep is recorded here"
    known = f"about {dry.known_seconds:.0f} s of work, according to earlier sweeps"
    return known + (f", plus {dry.unknown} tasks without an estimate" if dry.unknown else "")
