"""Terminal output of ``deploy doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from deploy.terminal.console import console, escape

if TYPE_CHECKING:
    from deploy.tools.doctor import DoctorReport

STATES = {"works": "[green]works[/]", "unavailable": "[yellow]unavailable[/]", "broken": "[bold red]BROKEN[/]"}


def show_doctor(report: DoctorReport) -> None:
    """Print the findings, each with the command that fixes it."""
    table = Table.grid(padding=(0, 2))
    for finding in report.findings:
        table.add_row(STATES[finding.state], finding.name, escape(finding.detail))
        if finding.fix:
            table.add_row("", "", f"[dim]fix:[/] {escape(finding.fix)}")
    console().print(table)
