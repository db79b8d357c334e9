"""Terminal output of ``deploy upgrade-check``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from deploy.core.start import since_start
from deploy.terminal.console import STYLE, console, escape

if TYPE_CHECKING:
    from deploy.upgrading.rows import FileState, UpgradedFile
    from deploy.upgrading.upgrade import UpgradeReport

SPEED = {
    "faster": "[green]faster[/]",
    "slower": "[red]slower[/]",
    "no difference": "no difference",
    "cannot tell": "[yellow]cannot tell[/]",
}


def show_upgrade(report: UpgradeReport) -> None:
    """Print the versions that differ, one row for each file, and what is worse."""
    versions = ", ".join(f"{name} {old or 'none'} → {new or 'none'}" for name, (old, new) in report.changed.items())
    console().print(f"versions   {escape(versions or 'no difference')}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("file", "backend", "before", "after", "latency"):
        table.add_column(name, overflow="fold")
    for row in report.rows:
        table.add_row(
            escape(row.path.name), row.backend, _state(row.before), _state(row.after) or escape(row.note), _latency(row)
        )
    console().print(table)
    for row in report.rows:
        for text in row.regressions:
            console().print(f"[bold red]worse[/]      {escape(row.path.name)}: {escape(text)}")
    console().print(f"verdict    [{STYLE[report.verdict]}]{report.verdict}[/], {since_start():.0f} s")


def _state(state: FileState | None) -> str:
    if state is None:
        return ""
    sqnr = "" if state.sqnr_db is None else f", {state.sqnr_db:.1f} dB"
    accuracy = "" if state.accuracy is None else f", {state.accuracy:.2%}"
    return f"[{STYLE.get(state.verdict, 'none')}]{state.verdict}[/]{sqnr}{accuracy}"


def _latency(row: UpgradedFile) -> str:
    if row.ratio is None or row.speed is None:
        return escape(row.note) if row.after is not None else ""
    return f"{row.ratio.value:.3f} ({row.ratio.low:.3f} to {row.ratio.high:.3f}), {SPEED[row.speed]}"
