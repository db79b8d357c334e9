"""``deploy optimize``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli import _options as shared
from deploy.cli._arguments import BACKENDS, DATA, MODEL, PRECISIONS, Several
from deploy.cli._common import EXIT, Settings, emit, json_option, model_options
from deploy.cli._options import Duration, Percent, Size, option, pack_model, refuse_unused


class Threads(Several):
    """Numbers of threads, or ``auto``: one, and all cores."""

    name = "threads"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Parse the numbers."""
        if value == "auto":
            from deploy.core.environment import usable_cores

            return tuple(sorted({usable_cores(), 1}, reverse=True))
        return super().convert(value, param, ctx)


@click.command(
    epilog="""\b
Examples:
  deploy optimize resnet18 --data calib/
  deploy optimize best.pt --arch resnet18 -o num_classes=10 --data calib/ --max-drop 0.5
  deploy optimize lenet5 --data digits --max-latency 5ms --budget 2min
  deploy optimize resnet18 --objective throughput --batch 1,8,32
  deploy optimize theirs.onnx --backends onnxruntime,openvino --precision fp32
"""
)
@click.argument("model", type=MODEL)
@option(
    "--data", type=DATA, metavar="DIR|FILE|NAME", help="Calibration data for INT8. [default: INT8 files that exist]"
)
@option(
    "--objective",
    type=click.Choice(["latency", "throughput", "size"]),
    default="latency",
    help="latency of a call; throughput: time per sample over several batch sizes; size of the files, then latency.",
)
@option(
    "--max-drop",
    type=click.FloatRange(min=0),
    help="Largest drop by INT8 in points of top-1 accuracy, mAP or mIoU; needs --data. [default: 0.5 if the data has "
    "labels, boxes or masks]",
)
@option(
    "--min-sqnr",
    type=click.FloatRange(min=0),
    help="Lowest SQNR of INT8, in dB. [default: 30 without labels]",
)
@option("--max-latency", "max_latency_s", type=Duration(), help="Longest latency of a call, such as 5ms.")
@option("--max-size", "max_bytes", type=Size(), metavar="SIZE", help="Largest size of the files, such as 20MB.")
@option(
    "--backends", type=BACKENDS, default=(), help="Backends, comma-separated. [default: torch, onnxruntime, openvino]"
)
@option("--precision", "precisions", type=PRECISIONS, help="Precisions. [default: fp32,int8; on a GPU also fp16]")
@option(
    "--batch",
    "batches",
    type=Several(numbers=True),
    help="Batch size; several with --objective throughput. [default: 1; 1,4,16 for throughput]",
)
@option("--threads", type=Threads(numbers=True), default="auto", help="Threads; auto: 1, and all cores.")
@shared.device_option
@shared.sizes_option
@shared.effort_option
@option("--plain", is_flag=True, help="Do not try other options of the backends.")
@option("--margin", type=Percent(), default="2%", help="Differences below this count as equal.")
@option(
    "--budget",
    "budget_s",
    type=Duration(),
    default="10min",
    help="Start no new round of timing after this time; three rounds run in any case.",
)
@model_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, plain: bool, max_latency_s: float | None, **options: Any) -> int:
    """Find the fastest backend, precision and options with which MODEL is still right.

    Missing files are exported and quantized. What fails its parity check or breaks a bound is not timed. The rest is
    timed in rounds of fresh processes that take turns; what is shown to be slower leaves. The choice is written to
    artifacts/<model>/deployment.json.

    Exit code 3: no candidate keeps --max-latency; 4: that is not shown, or the time was up before anything could be
    told apart.
    """
    settings: Settings = ctx.obj
    refuse_unused(ctx, ["effort"], options["data"] is not None, "--data")
    pack_model(options)
    from deploy.optimizing.optimize import optimize
    from deploy.terminal.optimize import show_optimized

    with settings.progress() as progress:
        found = optimize(
            variants=not plain,
            max_latency_ms=None if max_latency_s is None else 1e3 * max_latency_s,
            artifacts=settings.artifacts,
            progress=progress,
            **options,
        )
    emit(found.to_dict(), as_json, lambda: show_optimized(found))
    return EXIT[found.verdict]
