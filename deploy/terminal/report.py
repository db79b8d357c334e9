"""What ``deploy report`` wrote, and what a comparison found, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from deploy.report.tables import absences, advice_line, machine_line
from deploy.support.formatting import UNKNOWN, duration, spread
from deploy.terminal.markup import escape
from deploy.terminal.results import console, rows

if TYPE_CHECKING:
    from deploy.report.compare import Change, Changes
    from deploy.report.write import Report

COLORS = {"faster": "bold green", "slower": "bold red"}


def show_report(found: Report) -> None:
    """Where the page is, the advice, and what could not be measured."""
    document = found.document
    pairs = [("page", f"[bold]{escape(str(found.page))}[/]")]
    pairs.append(("rows", f"{len(document['rows'])}, with report.md, report.csv and report.json beside the page"))
    for index, item in enumerate(document["advice"]):
        pairs.append(("advice" if not index else "", escape(advice_line(item))))
    for index, (what, why) in enumerate(absences(document)):
        pairs.append(("not measured" if not index else "", escape(f"{what}: {why}")))
    console(piped=140).print(rows(pairs))


def show_changes(found: Changes) -> None:
    """A table of what changed, and how many cells show no change."""
    changed = [item for item in found.changes if item.verdict in COLORS or item.others]
    out = console(piped=140)
    for side, machines in (("old", found.old), ("new", found.new)):
        out.print(rows((side, escape(machine_line(item))) for item in machines))
    if changed:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in ("cell", "old", "new", "new / old", "verdict", "besides"):
            table.add_column(name, justify="right" if name in ("old", "new", "new / old") else "left", overflow="fold")
        for item in changed:
            table.add_row(*_cells(item))
        out.print(table)
    same = len(found.changes) - len(changed)
    out.print(f"{same} of {len(found.changes)} cells show no change beyond noise.")
    for what, names in (("gone", found.gone), ("added", found.added)):
        if names:
            out.print(rows([(what, escape("; ".join(names)))]))


def _cells(item: Change) -> list[str]:
    ratio = item.ratio
    told = UNKNOWN if ratio is None else f"{ratio.value:.3f} {spread(ratio.value, ratio.low, ratio.high)}"
    color = COLORS.get(item.verdict)
    verdict = f"[{color}]{item.verdict}[/]" if color else item.verdict
    others = escape("; ".join(item.others))
    return [escape(item.name), duration(item.old_ns), duration(item.new_ns), told, verdict, others]
