"""``deploy report``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.cli._common import Settings, emit, json_option


@click.command(
    epilog="""\b
Examples:
  deploy report                                       of everything that was timed
  deploy report --models resnet18,lenet5 --open
  deploy report --baseline onnxruntime
  deploy report --compare old/artifacts new/artifacts what changed beyond noise
  deploy report --compare main.json branch.json       the report.json of two runs
"""
)
@click.option("--models", metavar="NAME,...", help="Only these. [default: all that have records]")
@click.option("--baseline", default="torch", show_default=True, help="The backend that speed-ups are against.")
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--compare",
    nargs=2,
    type=click.Path(exists=True, path_type=Path),
    metavar="OLD NEW",
    help="Two artifacts directories, or two report.json: what changed beyond noise.",
)
@json_option
@click.pass_obj
def command(
    settings: Settings,
    models: str | None,
    baseline: str,
    show: bool,
    compare: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Write one page that compares what was timed: architectures, backends, precisions.

    Reads the records of `deploy bench`, `deploy evaluate`, `deploy quantize`, `deploy train` and `deploy bench
    --explain` in the artifacts directory, measures nothing, and writes report/index.html (one file, opens offline),
    report.md, report.csv and report.json there. What was not measured is not in it, and said so.
    """
    names = [name.strip() for name in (models or "").split(",") if name.strip()]
    if compare:
        _compare(settings, compare, names, baseline, as_json)
        return
    from deploy.report.write import write_report
    from deploy.terminal.report import show_report

    with settings.progress() as progress:
        found = write_report(names, baseline=baseline, artifacts=settings.artifacts, progress=progress)
    emit(found.to_dict(), as_json, lambda: show_report(found))
    if show:
        click.launch(str(found.page))


def _compare(settings: Settings, sides: tuple[Path, Path], names: list[str], baseline: str, as_json: bool) -> None:
    from deploy.report.compare import compare_reports
    from deploy.terminal.report import show_changes

    with settings.progress() as progress:
        found = compare_reports(*sides, models=names, baseline=baseline, progress=progress)
    emit(found.to_dict(), as_json, lambda: show_changes(found))
