"""``deploy sweep``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.cli._arguments import BACKENDS_ANYWHERE, DATA, EXECUTOR, PRECISIONS, ModelName, Several
from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import count, option, refuse_together, refuse_unused, threads_option
from deploy.terminal import results

if TYPE_CHECKING:
    from deploy.core.progress import Progress
    from deploy.sweeps.drive import Watch
    from deploy.sweeps.spec import SweepSpec
    from deploy.sweeps.task import Task

YAML = (".yaml", ".yml")
MATRIX = (
    "precisions",
    "backends",
    "batches",
    "threads",
    "calib",
    "samples",
    "data",
    "repetitions",
    "min_time",
    "seed",
    "baseline",
)
"""Parameters that a sweep file replaces."""


@click.command(
    epilog="""\b
Examples:
  deploy sweep lenet5 inception_small --precision fp32,int8 --calib digits --data digits
  deploy sweep sweep.yaml --dry-run                   show the tasks and their estimated durations
  deploy sweep sweep.yaml                             run here; run again to resume after an interruption
  deploy sweep sweep.yaml --engine ray --address auto run on the Ray cluster of this machine
"""
)
@click.argument("what", nargs=-1, required=True, type=ModelName(besides=YAML), metavar="FILE.yaml|MODEL...")
@option("--precision", "precisions", type=PRECISIONS, help="fp32, fp16, bf16, int8. [default: fp32]")
@option("--backends", type=BACKENDS_ANYWHERE, help="Backends to time. [default: torch, onnxruntime, openvino]")
@option("--batch", "batches", type=Several(numbers=True), help="Batch sizes. [default: 1]")
@threads_option
@option("--calib", type=DATA, metavar="DIR|FILE|NAME", help="Calibration data.")
@option("--samples", type=click.IntRange(min=2), help="Maximum number of calibration samples.")
@option("--data", type=DATA, metavar="DIR|FILE|NAME", help="Labeled images to evaluate accuracy on.")
@option("--repetitions", type=count, help="Worker processes per configuration. [default: 5]")
@option("--min-time", type=click.FloatRange(min=0.01), help="Seconds of timed calls per worker process. [default: 1]")
@option(
    "--seed", type=click.IntRange(min=0), help="Seed of untrained weights, inputs and measurement order. [default: 0]"
)
@option("--baseline", help="Backend that speedups are relative to. [default: torch]")
@option("--engine", "executor", type=EXECUTOR, default="local", metavar="local|ray", help="Where to run the tasks.")
@option("--address", default="auto", help="Address of the Ray cluster.")
@option("--jobs", type=count, default=1, help="Maximum number of concurrent tasks; a benchmark always runs alone.")
@option("--again", is_flag=True, help="Repeat the work of earlier sweeps.")
@option("--dry-run", is_flag=True, help="Show the tasks and their estimated durations; run nothing.")
@option("--report/--no-report", "with_report", default=True, help="Write the HTML report.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, as_json: bool, what: tuple[str, ...], dry_run: bool, with_report: bool, **options: Any
) -> int:
    """Export and time every MODEL in every precision, on every backend, batch size and machine.

    Each model is exported and checked, quantized for each target, built with TensorRT if requested, evaluated on
    --data, and timed with the repetitions of all its configurations interleaved. If a task fails, the tasks that need
    it are skipped and the others continue; the report gives the reason. Results of earlier sweeps are reused.

    Exit code 3: a check failed. 1: another task failed. 4: a verdict is inconclusive, or nothing was timed.
    """
    from deploy.sweeps import sweep
    from deploy.terminal.sweep import show_dry_run, show_sweep

    settings: Settings = ctx.obj
    spec = _spec(ctx, what, {name: options.pop(name) for name in MATRIX})
    if dry_run:
        refuse_together(ctx, ["executor", "address", "jobs", "with_report"], "--dry-run")
        with settings.progress() as progress:
            result = sweep.dry_run(spec, again=options["again"], artifacts=settings.artifacts, progress=progress)
        emit(result.to_dict(), as_json, lambda: show_dry_run(result))
        return 0
    refuse_unused(ctx, ["address"], options["executor"] != "local", "--engine ray")
    refuse_unused(ctx, ["jobs"], options["executor"] != "ray", "--engine local")
    with _watching(settings, sweep.count_tasks(spec)) as (progress, watch):
        report = sweep.run_sweep(spec, artifacts=settings.artifacts, progress=progress, watch=watch, **options)
        page = _write_page(settings, progress) if with_report and any(item.row for item in report.cells) else None

    def show() -> None:
        show_sweep(report)
        if page is not None:
            results.echo(f"report: {page}")

    emit({**report.to_dict(), "report": None if page is None else str(page)}, as_json, show)
    return report.exit_code


def _spec(ctx: click.Context, what: tuple[str, ...], matrix: dict[str, Any]) -> SweepSpec:
    from deploy.sweeps.spec import parse_spec, read_spec

    files = [item for item in what if Path(item).suffix in YAML]
    if files:
        if len(what) > 1:
            raise click.UsageError(f"{files[0]}: a sweep file cannot be combined with models; add them to the file.")
        for name in MATRIX:
            refuse_together(ctx, [name], f"{files[0]}; set {name!r} in the file")
        return read_spec(Path(files[0]))
    refuse_unused(ctx, ["calib"], "int8" in (matrix["precisions"] or ()), "int8 in --precision")
    if "int8" in (matrix["precisions"] or ()) and matrix["calib"] is None:
        raise click.UsageError("--precision int8 needs --calib.", ctx)
    refuse_unused(ctx, ["samples"], matrix["calib"] is not None, "--calib")
    if matrix["baseline"] is not None:
        from deploy.bench.cells import choose_backends

        backends = matrix["backends"] or choose_backends(())
        refuse_unused(ctx, ["baseline"], matrix["baseline"] in backends, "that backend in --backends")
    return parse_spec({"models": list(what), **{name: value for name, value in matrix.items() if value is not None}})


def _write_page(settings: Settings, progress: Progress) -> Path | None:
    from deploy.core.errors import MissingPackageError
    from deploy.report.write import write_report

    try:
        return write_report(artifacts=settings.artifacts, progress=progress).page
    except MissingPackageError as exc:
        progress.note(f"no report: {exc.message} {exc.hint or ''}")
        return None


@contextmanager
def _watching(settings: Settings, total: int) -> Iterator[tuple[Progress, Watch]]:
    """Show a live table on a terminal, else a line per task."""
    with settings.progress(drawn=False) as progress:
        if settings.quiet or not sys.stderr.isatty():
            yield progress, lambda task, state, text: _line(progress, task, state, text)
            return
        from rich.console import Console

        from deploy.terminal.sweep import live_table

        with live_table(Console(file=sys.stderr), total) as watch:
            yield progress, watch


def _line(progress: Progress, task: Task, state: str, text: str) -> None:
    if state in ("failed", "skipped", "warn", "again"):
        progress.warn(f"{task.name}: {'' if state == 'warn' else f'{state}: '}{text}")
    elif state == "note":
        progress.detail(f"{task.name}: {text}")
    elif state not in ("doing", "begun"):
        progress.note(f"{task.name}: {state}")
