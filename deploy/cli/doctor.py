"""``deploy doctor``."""

from __future__ import annotations

import click

from deploy.cli._common import Settings, emit, json_option


@click.command(
    epilog="""\b
Examples:
  deploy doctor
  deploy doctor --json
"""
)
@json_option
@click.pass_obj
def command(settings: Settings, as_json: bool) -> int:
    """Check what works on this machine, and suggest fixes for what does not.

    Every feature is tried, because packages may be installed and still not work. Exit code 1: something required does
    not work.
    """
    from deploy.terminal.doctor import show_doctor
    from deploy.tools.doctor import doctor

    report = doctor(settings.artifacts)
    emit(report.to_dict(), as_json, lambda: show_doctor(report))
    return 1 if report.broken else 0
