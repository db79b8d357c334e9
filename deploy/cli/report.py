"""``deploy report``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.cli._common import Settings, emit, json_option


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
@click.option("--models", metavar="NAME,...", help="Models to include. [default: all models that were timed]")
@click.option(
    "--baseline",
    metavar="BACKEND",
    help="Backend whose float32 latency speedups are relative to. [default: torch]",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--compare",
    nargs=2,
    type=click.Path(exists=True, path_type=Path),
    metavar="OLD NEW",
    help="Compare two artifacts directories or two report.json files, and write no report.",
)
@json_option
@click.pass_obj
def command(
    settings: Settings,
    models: str | None,
    baseline: str | None,
    show: bool,
    compare: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Write a page that compares the latency and accuracy of models, backends and precisions.

    The page shows the results of `deploy bench`, `deploy bench --explain`, `deploy evaluate`, `deploy quantize` and
    `deploy train` in the artifacts directory; nothing is measured. The files are report/index.html (a single file that
    opens offline), report.md, report.csv and report.json. Skipped configurations are listed with the reason.
    """
    names = [name.strip() for name in (models or "").split(",") if name.strip()]
    if compare:
        for option, given in (("--baseline", baseline), ("--open", show)):
            if given:
                raise click.UsageError(f"{option} cannot be used with --compare.")
        _compare(settings, compare, names, as_json)
        return
    from deploy.report.write import write_report
    from deploy.terminal.report import show_report

    with settings.progress() as progress:
        found = write_report(names, baseline=baseline or "torch", artifacts=settings.artifacts, progress=progress)
    emit(found.to_dict(), as_json, lambda: show_report(found))
    if show:
        click.launch(str(found.page))


def _compare(settings: Settings, sides: tuple[Path, Path], names: list[str], as_json: bool) -> None:
    from deploy.report.compare import compare_reports
    from deploy.terminal.report import show_changes

    with settings.progress() as progress:
        found = compare_reports(*sides, models=names, progress=progress)
    emit(found.to_dict(), as_json, lambda: show_changes(found))
