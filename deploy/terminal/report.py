"""Terminal output of ``deploy report``: what was written, or what changed between two reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.report.tables import advice_line, machine_line, skipped
from deploy.support.formatting import UNKNOWN, duration, spread
from deploy.terminal.console import console, escape, rows, table

if TYPE_CHECKING:
    from deploy.report.compare import CellChange, ReportComparison
    from deploy.report.write import Report

COLORS = {"faster": "bold green", "slower": "bold red"}


def show_report(found: Report) -> None:
    """Print the path of the page, the advice, and what was skipped."""
    document = found.document
    pairs = [
        ("page", f"[bold]{escape(str(found.page))}[/]"),
        ("rows", f"{len(document['rows'])}, also in report.md, report.csv and report.json"),
    ]
    for index, item in enumerate(document["advice"]):
        pairs.append(("advice" if not index else "", escape(advice_line(item))))
    for index, (configuration, reason) in enumerate(skipped(document)):
        pairs.append(("skipped" if not index else "", escape(f"{configuration}: {reason}")))
    console(piped=140).print(rows(pairs))


def show_changes(found: ReportComparison) -> None:
    """Print a table of the configurations that changed, and the number of those that did not."""
    changed = [item for item in found.changes if item.verdict in COLORS or item.others]
    out = console(piped=140)
    for side, machines in (("old", found.old), ("new", found.new)):
        out.print(rows((side, escape(machine_line(item))) for item in machines))
    if changed:
        numbers = ("old", "new", "new / old")
        changes = table("configuration", *numbers, "verdict", "other changes", numbers=numbers)
        for item in changed:
            changes.add_row(*_cells(item))
        out.print(changes)
    unchanged = len(found.changes) - len(changed)
    out.print(f"{unchanged} of {len(found.changes)} configurations show no detectable change.")
    for title, names in (("only in old", found.gone), ("only in new", found.added)):
        if names:
            out.print(rows([(title, escape("; ".join(names)))]))


def _cells(item: CellChange) -> list[str]:
    ratio = item.ratio
    change = UNKNOWN if ratio is None else f"{ratio.value:.3f} {spread(ratio.value, ratio.low, ratio.high)}"
    color = COLORS.get(item.verdict)
    verdict = f"[{color}]{item.verdict}[/]" if color else item.verdict
    others = escape("; ".join(item.others))
    return [escape(item.name), duration(item.old_ns), duration(item.new_ns), change, verdict, others]
