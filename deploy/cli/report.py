"""``deploy report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploy.cli._arguments import Several
from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import option, refuse_together


@click.command(
    epilog="""\b
Examples:
  deploy report                                       all models that were timed
  deploy report --models resnet18,lenet5 --open
  deploy report --baseline onnxruntime
  deploy report --compare old/artifacts new/artifacts two artifacts directories
  deploy report --compare main.json branch.json       the report.json of two runs
"""
)
@option(
    "--models", type=Several(), default=(), metavar="NAME,...", help="Models to include. [default: all that were timed]"
)
@option(
    "--baseline", default="torch", metavar="BACKEND", help="Backend whose float32 latency speedups are relative to."
)
@option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@option(
    "--compare",
    nargs=2,
    type=click.Path(exists=True, path_type=Path),
    metavar="OLD NEW",
    help="Compare two artifacts directories or two report.json files, and write no report.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, as_json: bool, compare: tuple[Path, Path] | None, open_page: bool, **options: Any
) -> None:
    """Write a page that compares the latency and accuracy of models, backends and precisions.

    The page shows the results of `deploy bench`, `deploy profile`, `deploy evaluate`, `deploy quantize` and
    `deploy train` in the artifacts directory; nothing is measured. The files are report/index.html (a single file that
    opens offline), report.md, report.csv and report.json. Skipped configurations are listed with the reason.
    """
    from deploy.report.compare import compare_reports
    from deploy.report.write import write_report
    from deploy.terminal.report import show_changes, show_report

    settings: Settings = ctx.obj
    with settings.progress() as progress:
        if compare:
            refuse_together(ctx, ["baseline", "open_page"], "--compare")
            changes = compare_reports(*compare, models=options["models"], progress=progress)
            emit(changes.to_dict(), as_json, lambda: show_changes(changes))
            return
        report = write_report(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_report(report))
    if open_page:
        click.launch(str(report.page))
