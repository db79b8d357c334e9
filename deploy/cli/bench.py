"""``deploy bench``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from deploy.cli import _options as shared
from deploy.cli import compare as compare_command
from deploy.cli import profile as profile_command
from deploy.cli._arguments import BACKEND, BACKENDS, MODEL, PRECISIONS, SCENARIO, THROUGHPUT, Several
from deploy.cli._common import EXIT, Settings, emit, json_option
from deploy.cli._options import given, option, option_of, pack, refuse_together, refuse_unused
from deploy.terminal import results, waiting

if TYPE_CHECKING:
    from deploy.bench.measure import BenchmarkReport, Listener
    from deploy.bench.saturation import SaturationReport
    from deploy.core.progress import Progress

FORMATS = ("table", "json", "csv", "markdown")
COMPARE_ONLY = ("margin", "fail_if_slower", "time_limit_s")
SHARED = ("models", "precisions", "batches", "sizes", "threads", "calib", "seed", "as_json")
COMPARE_TAKES = (*SHARED, "compare", "device")
PROFILE_TAKES = (*SHARED, "explain", "backends")
"""Parameters that the hidden aliases ``--compare`` and ``--explain`` forward."""


@click.command(
    epilog="""\b
Examples:
  deploy bench                                        every model in the artifacts directory
  deploy bench lenet5 --quick                         a first look, in seconds
  deploy bench resnet18 lenet5 --precision fp32,int8 --calib data/ --batch 1,8
  deploy bench resnet18 --backends torch,torch-compile,onnxruntime,openvino --threads 1
  deploy bench resnet18 --scenario throughput         batches of 1, 2, 4 ... until throughput stops growing
  deploy bench resnet18 --scenario server --p99 50    highest request rate with a 99th percentile below 50 ms
  deploy bench artifacts/resnet18/deployment.json     the choice of deploy optimize
  deploy bench theirs.onnx --size length=128          an ONNX file from elsewhere; its result is called unproven
  deploy bench resnet18 --format csv > latencies.csv
See also: deploy compare A B, deploy profile MODEL.
"""
)
@click.argument("models", nargs=-1, type=MODEL, metavar="[MODEL]...")
@option(
    "--backends", type=BACKENDS, default=(), help="Backends, comma-separated. [default: torch, onnxruntime, openvino]"
)
@option("--precision", "precisions", type=PRECISIONS, help="fp32, fp16, bf16, int8. [default: those with a file]")
@option(
    "--batch", "batches", type=Several(numbers=True), help="Batch sizes. [default: 1, or that of a deployment.json]"
)
@option("--max-batch", type=shared.count, default=256, help="Largest batch of --scenario throughput.")
@shared.sizes_option
@shared.threads_option
@option(
    "--scenario",
    type=SCENARIO,
    default="latency",
    metavar="latency|throughput|server|loadgen",
    help="One call after the other; growing batches; Poisson arrivals; MLPerf's load generator.",
)
@option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Requests per second, for --scenario server or loadgen. [default: half of the maximum]",
)
@option(
    "--p99",
    "p99_ms",
    type=click.FloatRange(min=0, min_open=True),
    help="Bound on the 99th percentile, ms. With --scenario server, find the highest rate that keeps it; with "
    "--scenario loadgen --mode server, the load generator checks it.",
)
@option(
    "--mode",
    type=click.Choice(["single-stream", "offline", "server"]),
    help="MLPerf scenario of --scenario loadgen. [default: single-stream]",
)
@shared.device_option
@option("--graph", is_flag=True, help="Replay CUDA graphs. Needs --device cuda.")
@shared.calib_option
@option("--repetitions", type=shared.count, default=5, help="Worker processes per configuration.")
@option(
    "--min-time",
    "time_s",
    type=click.FloatRange(min=0.01),
    default=1.0,
    help="Seconds of timed calls per worker process.",
)
@option(
    "--timeout",
    "patience_s",
    type=click.FloatRange(min=1),
    default=120.0,
    help="Kill a worker unresponsive for this many seconds.",
)
@option("--seed", default=0, help="Seed of the inputs and of the order of processes.")
@option("--again", is_flag=True, help="Repeat measurements that are already recorded.")
@option("--quick", is_flag=True, help="A first look: three short processes per configuration, not recorded.")
@option("--baseline", type=BACKEND, default="torch", help="Backend, in fp32, that speedups are relative to.")
@option("--limits", is_flag=True, help="Measure this machine's peak rates and show how close each row comes.")
@option("--format", "form", type=click.Choice(FORMATS), default="table", help="Output format.")
@option("--explain", is_flag=True, hidden=True)
@option("--compare", nargs=2, hidden=True)
@option("--margin", type=shared.Percent(), default="2%", hidden=True)
@option("--fail-if-slower", type=shared.Percent(), hidden=True)
@option("--time-limit", "time_limit_s", type=click.FloatRange(min=1), default=60.0, hidden=True)
@json_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> int:
    """Time models on backends.

    Each configuration (model, backend, precision, batch size) is timed in --repetitions fresh processes, interleaved in
    random order. Confidence intervals are over processes. A file that failed the parity check is not timed; one whose
    model is not known is called unproven. Finished processes are recorded in the artifacts directory, so an interrupted
    run resumes. The deployment.json of deploy optimize is timed as it was chosen.

    Exit code 4: no configuration could be timed.
    """
    if options["compare"]:
        return _forward_to_compare(ctx, options)
    if options["explain"]:
        return _forward_to_profile(ctx, options)
    _refuse_unused(ctx, options)
    return _run(ctx.obj, options)


def _refuse_unused(ctx: click.Context, options: dict[str, Any]) -> None:
    scenario = options["scenario"]
    refuse_unused(ctx, COMPARE_ONLY, False, "deploy compare A B")
    refuse_unused(ctx, ["rate", "p99_ms"], scenario in ("server", "loadgen"), "--scenario server or loadgen")
    refuse_unused(ctx, ["mode"], scenario == "loadgen", "--scenario loadgen")
    if scenario == "loadgen":
        refuse_unused(ctx, ["p99_ms"], options["mode"] == "server", "--mode server")
    refuse_unused(ctx, ["max_batch"], scenario == THROUGHPUT, "--scenario throughput")
    refuse_unused(ctx, ["graph"], options["device"] == "cuda", "--device cuda")
    refuse_unused(ctx, ["calib"], "int8" in (options["precisions"] or ()), "int8 in --precision")
    if scenario == THROUGHPUT:
        refuse_together(ctx, ["batches"], "--scenario throughput, which doubles the batch up to --max-batch")
    if scenario == "server" and options["p99_ms"] is not None:
        refuse_together(ctx, ["rate"], "--p99, which searches for the rate")
    if options["quick"]:
        refuse_together(ctx, ["repetitions", "time_s", "again", "max_batch", "rate", "p99_ms", "mode"], "--quick")
        refuse_together(ctx, ["scenario"], "--quick, which looks at the latency")
    if options["as_json"]:
        refuse_together(ctx, ["form"], "--json")
    if given(ctx, "baseline"):
        from deploy.bench.cells import choose_backends

        backends = options["backends"] or choose_backends(())
        refuse_unused(ctx, ["baseline"], options["baseline"] in backends, "that backend in --backends")


def _run(settings: Settings, options: dict[str, Any]) -> int:
    from deploy.bench.measure import measure_speed
    from deploy.bench.repetition import Budget
    from deploy.bench.saturation import SaturationReport, saturate
    from deploy.core.backend import backends
    from deploy.terminal.bench import as_csv, as_markdown, show_bench, show_saturation

    form = "json" if options["as_json"] else options["form"]
    for name in ("as_json", "form", "compare", "explain", *COMPARE_ONLY):
        del options[name]
    options["budget"] = pack(options, Budget)
    scenario = {name: options.pop(name) for name in ("rate", "p99_ms", "mode")}
    measure: Callable[..., BenchmarkReport | SaturationReport]
    if options["scenario"] == THROUGHPUT:
        measure = saturate
        del options["scenario"], options["batches"], options["quick"]
    else:
        measure = measure_speed
        del options["max_batch"]
        options["options"] = {name: value for name, value in scenario.items() if value is not None}
    default = () if options["backends"] else backends().values()
    missing = [item for item in default if item.default and not item.installed]
    with _display(settings) as (progress, listener):
        result = measure(**options, artifacts=settings.artifacts, progress=progress, listener=listener)
    report = result.report if isinstance(result, SaturationReport) else result

    def show() -> None:
        show_bench(report, missing=missing)
        if isinstance(result, SaturationReport):
            show_saturation(result)

    waiting.end()
    if form == "csv":
        results.echo(as_csv(report), nl=False)
    elif form == "markdown":
        results.echo(as_markdown(report), nl=False)
    else:
        emit(result.to_dict(), form == "json", show)
    return 0 if any(row.stats for row in report.rows) else EXIT["inconclusive"]


def _forward_to_compare(ctx: click.Context, options: dict[str, Any]) -> int:
    _refuse_others(ctx, (*COMPARE_TAKES, *COMPARE_ONLY), "--compare")
    code: int = ctx.invoke(
        compare_command.command,
        first=options["compare"][0],
        second=options["compare"][1],
        model=_single(ctx, "models", options),
        precision=_single(ctx, "precisions", options),
        batch=_single(ctx, "batches", options) or 1,
        device=options["device"] if given(ctx, "device") else None,
        **{name: options[name] for name in ("sizes", "threads", "calib", "seed", "as_json", *COMPARE_ONLY)},
    )
    return code


def _forward_to_profile(ctx: click.Context, options: dict[str, Any]) -> int:
    _refuse_others(ctx, PROFILE_TAKES, "--explain")
    model = _single(ctx, "models", options)
    if model is None:
        raise click.UsageError("--explain needs a MODEL: deploy profile MODEL", ctx)
    code: int = ctx.invoke(
        profile_command.command,
        model=model,
        precision=_single(ctx, "precisions", options),
        batch=_single(ctx, "batches", options) or 1,
        **{name: options[name] for name in ("backends", "sizes", "threads", "calib", "seed", "as_json")},
    )
    return code


def _refuse_others(ctx: click.Context, taken: tuple[str, ...], alias: str) -> None:
    others = [param.name for param in ctx.command.params if param.name and param.name not in taken]
    refuse_together(ctx, others, alias)


def _single(ctx: click.Context, name: str, options: dict[str, Any]) -> Any:
    """Return the only value of a parameter that takes several; None without one."""
    values = options[name] or ()
    if len(values) > 1 and given(ctx, name):
        raise click.UsageError(f"{option_of(ctx.command, name)} takes one value here.", ctx)
    return values[0] if values else None


@contextmanager
def _display(settings: Settings) -> Iterator[tuple[Progress, Listener]]:
    """A live table on a terminal; lines otherwise."""
    from rich.console import Console

    from deploy.terminal.bench import live_table

    out = Console(file=sys.stderr)
    if settings.quiet or not out.is_terminal:
        with settings.progress() as progress:
            yield progress, lambda rows: None
        return
    with live_table(out) as table:
        yield table, table.update
