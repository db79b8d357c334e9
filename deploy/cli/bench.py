"""``deploy bench``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from deploy.cli._common import EXIT, Settings, Several, emit, json_option

if TYPE_CHECKING:
    from deploy.bench.measure import BenchmarkReport, Listener
    from deploy.bench.saturation import SaturationReport
    from deploy.core.progress import Progress

FORMATS = ("table", "json", "csv", "markdown")


class Percent(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A share: ``3%`` or ``0.03``."""

    name = "percent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", str(value).strip())
        share = (float(match[1]) / (100 if match[2] else 1)) if match else -1.0
        if not 0 < share < 1:
            self.fail(f"{value!r} is not a share such as 3%.", param, ctx)
        return share


@click.command(
    epilog="""\b
Examples:
  deploy bench                                        every model in the artifacts directory
  deploy bench resnet18 lenet5 --precision fp32,int8 --calib data/ --batch 1,8
  deploy bench resnet18 --backends torch,torch-compile,onnxruntime,openvino --threads 1
  deploy bench resnet18 --scenario throughput         batches of 1, 2, 4 … until no more comes of it
  deploy bench resnet18 --scenario server --p99 50    the highest rate whose 99th percentile stays below 50 ms
  deploy bench resnet18 --precision int8 --explain    where the time goes, beside float
  deploy bench resnet18 --compare torch onnxruntime
  deploy bench --compare old/m.fp32.onnx new/m.fp32.onnx --fail-if-slower 3%
"""
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--backends", type=Several(), help="torch, torch-compile, onnxruntime, openvino, tensorrt.")
@click.option("--precision", "precisions", type=Several(), help="fp32, fp16, int8. [default: those there are files of]")
@click.option("--batch", "batches", type=Several(numbers=True), default="1", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of every backend. [default: all cores]")
@click.option(
    "--scenario",
    default="latency",
    show_default=True,
    metavar="latency|throughput|server|loadgen",
    help="One call after the other; larger batches to saturation; Poisson arrivals; MLPerf's load generator.",
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Of server, loadgen: requests a second.")
@click.option(
    "--p99", type=click.FloatRange(min=0, min_open=True), help="Of server: find the rate that holds this, ms."
)
@click.option("--mode", metavar="single-stream|offline|server", help="Of loadgen. [default: single-stream]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--graph", is_flag=True, help="Replay CUDA graphs instead of launching kernel by kernel.")
@click.option("--calib", metavar="DIR|FILE|NAME", help="Data to quantize with where an INT8 file is missing.")
@click.option("--repetitions", type=click.IntRange(min=1), default=5, show_default=True, help="Processes a cell.")
@click.option("--min-time", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="Seconds a process.")
@click.option("--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Until it is hung, s.")
@click.option("--seed", default=0, show_default=True, help="Of inputs and of the order.")
@click.option("--again", is_flag=True, help="Measure what was measured before.")
@click.option("--baseline", default="torch", show_default=True, help="The backend that speed-ups are against.")
@click.option("--limits", is_flag=True, help="Measure what this machine can do at best, and how near each row comes.")
@click.option("--explain", is_flag=True, help="Profile MODEL: time by operator and layer; why INT8 is not faster.")
@click.option("--compare", nargs=2, metavar="A B", help="Two files, two models, or two backends of MODEL: a verdict.")
@click.option("--margin", type=Percent(), default="2%", show_default=True, help="Of --compare: what does not matter.")
@click.option("--fail-if-slower", type=Percent(), metavar="3%", help="Of --compare: exit 3 where B is slower by more.")
@click.option("--time-limit", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Of --compare, s.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@json_option
@click.pass_obj
def command(
    settings: Settings,
    models: tuple[str, ...],
    backends: tuple[str, ...] | None,
    precisions: tuple[str, ...] | None,
    batches: tuple[int, ...],
    threads: int | None,
    scenario: str,
    rate: float | None,
    p99: float | None,
    mode: str | None,
    device: str,
    graph: bool,
    calib: str | None,
    repetitions: int,
    min_time: float,
    timeout: float,
    seed: int,
    again: bool,
    baseline: str,
    limits: bool,
    explain: bool,
    compare: tuple[str, str] | None,
    margin: float,
    fail_if_slower: float | None,
    time_limit: float,
    form: str,
    as_json: bool,
) -> int:
    """Time models on backends, each in fresh processes, interleaved; only what is proven gets a number.

    Every cell (model, backend, precision, batch) is timed in --repetitions processes of its own, whose order is drawn
    anew for each round. Intervals are over processes. Each finished process is kept under the artifacts directory: an
    interrupted run goes on where it was.

    --compare runs A and B in pairs of fresh processes that take turns, until the difference is decided or the time is
    up: faster, slower, no difference (within --margin), or cannot tell.

    Exit code 3: B is slower by more than --fail-if-slower; 4: that cannot be told, or no cell could be timed.
    """
    if compare:
        return _compare(
            settings,
            compare,
            as_json,
            model=models[0] if models else None,
            precision=precisions[0] if precisions else None,
            batch=batches[0],
            threads=threads,
            device=device,
            calib=calib,
            margin=margin,
            fail_if_slower=fail_if_slower,
            time_limit_s=time_limit,
            seed=seed,
        )
    if explain:
        return _explain(
            settings,
            models,
            as_json,
            backends=backends or (),
            precision=precisions[0] if precisions else "fp32",
            batch=batches[0],
            threads=threads,
            calib=calib,
            seed=seed,
        )
    if fail_if_slower is not None:
        raise click.UsageError("--fail-if-slower goes with --compare A B.")
    from deploy.bench.repetition import Budget

    chosen = {"rate": rate, "p99_ms": p99, "mode": mode}
    options = {name: value for name, value in chosen.items() if value is not None}
    if options and scenario not in ("server", "loadgen"):
        raise click.UsageError("--rate, --p99 and --mode go with --scenario server or loadgen.")
    with _display(settings) as (progress, listener):
        run = _saturate if scenario == "throughput" else _bench
        result = run(
            models,
            backends=backends or (),
            precisions=precisions,
            batches=batches,
            threads=threads,
            scenario=scenario,
            options=options,
            device=device,
            graph=graph,
            calib=calib,
            repetitions=repetitions,
            budget=Budget(time_s=min_time, patience_s=timeout),
            seed=seed,
            again=again,
            baseline=baseline,
            limits=limits,
            artifacts=settings.artifacts,
            progress=progress,
            listener=listener,
        )
    _print(result, "json" if as_json else form)
    return 0 if any(row.stats for row in result[0].rows) else EXIT["inconclusive"]


def _bench(models: tuple[str, ...], **options: Any) -> tuple[BenchmarkReport, SaturationReport | None]:
    from deploy.bench.measure import measure_speed

    return measure_speed(models, **options), None


def _saturate(models: tuple[str, ...], **options: Any) -> tuple[BenchmarkReport, SaturationReport | None]:
    """Batches from 1 to the largest of --batch, or to 256 where that is left out."""
    from deploy.bench.saturation import MOST, saturate

    largest = max(options.pop("batches"))
    found = saturate(models, most=MOST if largest == 1 else largest, **{**options, "scenario": "latency"})
    return found.report, found


def _print(result: tuple[BenchmarkReport, SaturationReport | None], form: str) -> None:
    from deploy.terminal import bench as shown

    report, saturated = result
    texts = {"csv": shown.as_csv, "markdown": shown.as_markdown}
    if form in texts:
        click.echo(texts[form](report), nl=False)
        return
    emit((saturated or report).to_dict(), form == "json", lambda: shown.show_bench(report))
    if saturated and form != "json":
        shown.show_saturation(saturated)


def _explain(settings: Settings, models: tuple[str, ...], as_json: bool, **choices: Any) -> int:
    if len(models) != 1:
        raise click.UsageError("--explain takes one MODEL.")
    from deploy.bench.profile import explain
    from deploy.terminal.profile import show_explained

    with settings.progress() as progress:
        found = explain(models[0], artifacts=settings.artifacts, progress=progress, **choices)
    emit({"cells": [item.to_dict() for item in found]}, as_json, lambda: show_explained(found))
    return 0


def _compare(settings: Settings, sides: tuple[str, str], as_json: bool, **choices: Any) -> int:
    from deploy.bench.compare import compare_speed
    from deploy.terminal.compare import show_comparison

    with settings.progress() as progress:
        found = compare_speed(*sides, artifacts=settings.artifacts, progress=progress, **choices)
    emit(found.to_dict(), as_json, lambda: show_comparison(found))
    return EXIT[found.guard or "pass"]


@contextmanager
def _display(settings: Settings) -> Iterator[tuple[Progress, Listener]]:
    """A table that grows on a terminal; lines otherwise."""
    from rich.console import Console

    from deploy.terminal.bench import live_table

    out = Console(stderr=True)
    if settings.quiet or not out.is_terminal:
        with settings.progress() as progress:
            yield progress, lambda rows: None
        return
    with live_table(out) as table:
        yield table, table.update
