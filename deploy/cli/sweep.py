"""``deploy sweep``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.cli._common import Settings, Several, emit, json_option

if TYPE_CHECKING:
    from deploy.core.progress import Progress
    from deploy.sweeps.drive import Watch
    from deploy.sweeps.spec import Spec
    from deploy.sweeps.task import Task

FILES = (".yaml", ".yml")


@click.command(
    epilog="""\b
Examples:
  deploy sweep lenet5 inception_small --precision fp32,int8 --calib digits --data digits
  deploy sweep sweep.yaml --dry-run                   the matrix, and what it may cost by earlier records
  deploy sweep sweep.yaml                             here; again after an interruption: it goes on
  deploy sweep sweep.yaml --engine ray --address auto on the cluster that this machine belongs to
"""
)
@click.argument("what", nargs=-1, required=True, metavar="FILE.yaml|MODEL...")
@click.option("--precision", "precisions", type=Several(), help="fp32, fp16, int8. [default: fp32]")
@click.option("--backends", type=Several(), help="As in bench. [default: torch, onnxruntime, openvino]")
@click.option("--batch", "batches", type=Several(numbers=True), help="Sizes. [default: 1]")
@click.option("--threads", type=click.IntRange(min=1), help="Of every backend. [default: all cores]")
@click.option("--calib", metavar="DIR|FILE|NAME", help="Data to quantize with.")
@click.option("--samples", type=click.IntRange(min=2), help="To quantize with, at the most.")
@click.option("--data", metavar="DIR|FILE|NAME", help="Labeled images to judge accuracy on.")
@click.option("--repetitions", type=click.IntRange(min=1), help="Processes a cell. [default: 5]")
@click.option("--min-time", type=click.FloatRange(min=0.01), help="Seconds of timed calls a process. [default: 1]")
@click.option("--seed", type=click.IntRange(min=0), help="Of untrained weights, inputs and order. [default: 0]")
@click.option("--baseline", help="The backend that speed-ups are against. [default: torch]")
@click.option("--engine", default="local", show_default=True, metavar="local|ray", help="What runs the tasks.")
@click.option("--address", default="auto", show_default=True, help="Of the Ray cluster.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Exports and such at a time.")
@click.option("--again", is_flag=True, help="Do what was done before.")
@click.option("--dry-run", is_flag=True, help="Print the matrix and what it may cost; run nothing.")
@click.option("--report/--no-report", "paged", default=True, show_default=True, help="Write the page of it all.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    /,
    what: tuple[str, ...],
    engine: str,
    address: str,
    jobs: int,
    again: bool,
    dry_run: bool,
    paged: bool,
    as_json: bool,
    **matrix: Any,
) -> int:
    """Make and measure a matrix: every MODEL in every precision on every backend, at every batch, on every machine.

    Each model is exported and proven, quantized for its targets, built where TensorRT is asked for, judged on --data,
    and timed, all cells of a model interleaved. A task that fails ends what needs it and nothing else; its cells are
    rows with the reason. What earlier sweeps did is not done again.

    Exit code 3: a check did not pass; 1: something else failed; 4: parity could not be told, or nothing was timed.
    """
    from deploy.sweeps.sweep import count_tasks, run_sweep
    from deploy.sweeps.sweep import dry_run as look

    spec = _spec(what, {name: value for name, value in matrix.items() if value is not None})
    if dry_run:
        from deploy.terminal.sweep import show_dry_run

        with settings.progress() as progress:
            found = look(spec, again=again, artifacts=settings.artifacts, progress=progress)
        emit(found.to_dict(), as_json, lambda: show_dry_run(found))
        return 0
    with _watching(settings, count_tasks(spec)) as (progress, watch):
        report = run_sweep(
            spec,
            engine=engine,
            address=address,
            jobs=jobs,
            again=again,
            artifacts=settings.artifacts,
            progress=progress,
            watch=watch,
        )
        page = _page(settings, progress) if paged and any(item.row for item in report.found) else None

    def show() -> None:
        from deploy.terminal.sweep import show_sweep

        show_sweep(report)
        if page is not None:
            click.echo(f"report: {page}")

    emit({**report.to_dict(), "report": None if page is None else str(page)}, as_json, show)
    return report.exit_code


def _spec(what: tuple[str, ...], given: dict[str, Any]) -> Spec:
    from deploy.sweeps.sweep import parse_sweep, read_sweep

    files = [item for item in what if Path(item).suffix in FILES]
    if not files:
        return parse_sweep({"models": list(what), **given})
    if len(what) > 1:
        raise click.UsageError(f"{files[0]} is a whole sweep: models beside it belong in it.")
    if given:
        name = next(iter(given))
        raise click.UsageError(f"{files[0]} says what is swept: write {name!r} there.")
    return read_sweep(Path(files[0]))


def _page(settings: Settings, progress: Progress) -> Path | None:
    from deploy.core.errors import MissingPackageError
    from deploy.report.write import write_report

    try:
        return write_report(artifacts=settings.artifacts, progress=progress).page
    except MissingPackageError as exc:
        progress.note(f"no report: {exc.message} {exc.hint or ''}")
        return None


@contextmanager
def _watching(settings: Settings, total: int) -> Iterator[tuple[Progress, Watch]]:
    """A board on a terminal; a line for every task otherwise."""
    with settings.progress(drawn=False) as progress:
        if settings.quiet or not sys.stderr.isatty():
            yield progress, lambda task, state, text: _line(progress, task, state, text)
            return
        from rich.console import Console

        from deploy.terminal.sweep import live_table

        with live_table(Console(stderr=True), total) as watch:
            yield progress, watch


def _line(progress: Progress, task: Task, state: str, text: str) -> None:
    if state in ("failed", "skipped", "warn", "again"):
        progress.warn(f"{task.name}: {'' if state == 'warn' else f'{state}: '}{text}")
    elif state == "note":
        progress.detail(f"{task.name}: {text}")
    elif state not in ("doing", "begun"):
        progress.note(f"{task.name}: {state}")
