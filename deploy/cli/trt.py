"""``deploy trt``: TensorRT engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploy.cli._arguments import DATA, LIBRARY, MODEL, Several
from deploy.cli._common import EXIT, Settings, emit, half_options, json_option, name_option
from deploy.cli._options import Size, calib_samples_option, method_option, option, pack, path, refuse_unused
from deploy.terminal import results


@click.group(
    epilog="""\b
Examples:
  deploy trt build                                 the newest export, in float32
  deploy trt build --int8 --calib images/
  deploy trt inspect artifacts/resnet18/resnet18.int8-tensorrt-rtx.engine
"""
)
def command() -> None:
    """Build and inspect TensorRT engines, and see where they run."""


@command.command(
    epilog="""\b
Examples:
  deploy trt build --int8 --calib images/          the newest export
  deploy trt build resnet18 --fp16 --batch 1:16:64
  deploy trt build resnet18 --int8 --fp16 --calib images/ --compute-capability 8.6,8.9
  deploy trt build zoo/lenet5 --int8 --calib digits --runtime tensorrt-rtx
  deploy trt build resnet18 --batch 1:1:1,8:16:32  two profiles: single samples and batches
  deploy trt build resnet18 --fp16 --locked resnet18.fp16-tensorrt-rtx.lock.json
  deploy trt build resnet18 --fp16 --print-trtexec
"""
)
@click.argument("model", required=False, type=MODEL)
@option("--fp16", is_flag=True, help="Use FP16, with as few nodes in float32 as hold; inputs and outputs stay float32.")
@half_options
@option("--int8", is_flag=True, help="Quantize to INT8 with --calib; with --fp16, other layers compute in FP16.")
@option("--fp8", is_flag=True, help="Quantize to FP8 with --calib, for GPUs of compute capability 8.9 and later.")
@option("--calib", type=DATA, metavar="DIR|FILE|NAME", help="Calibration data, as in deploy quantize.")
@method_option
@calib_samples_option
@option(
    "--batch",
    metavar="N|MIN:OPT:MAX[,…]",
    help="Range of batch sizes; N stands for 1:N:N; several ranges make several profiles. [default: 1:8:32]",
)
@option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME:MIN:OPT:MAX[,…]",
    help="Range of another dynamic dimension, or of the shape of an input; repeatable.",
)
@option(
    "--runtime",
    type=LIBRARY,
    default="auto",
    metavar="tensorrt|tensorrt-rtx|auto",
    help="Library that builds the engine. auto: tensorrt if it is installed and there is a GPU, else tensorrt-rtx.",
)
@option(
    "--workspace",
    "workspace_bytes",
    type=Size(),
    metavar="2GiB",
    help="Limit of scratch GPU memory. [default: the library's]",
)
@option(
    "--timing-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of measured kernel times, read and written; only for tensorrt.",
)
@option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="Builder optimization level: a higher level searches longer. [default: the library's]",
)
@option(
    "--compute-capability",
    "compute_capabilities",
    type=Several(),
    default=(),
    metavar="8.6,12.0",
    help="GPUs to build for; only for tensorrt-rtx. [default: all]",
)
@option(
    "--locked",
    type=path,
    metavar="FILE",
    help="Lock file of an earlier build: whatever decides the engine and differs from it is an error.",
)
@name_option
@option("--print-trtexec", is_flag=True, help="Print the command of NVIDIA's own tool instead of building.")
@json_option
@click.pass_context
def build(ctx: click.Context, /, as_json: bool, print_trtexec: bool, **options: Any) -> int:
    """Build a TensorRT engine from a float32 export, or from a file that is in half precision already.

    MODEL is the name of a model or an ONNX file; by default, the newest float32 export. A model without a float32
    export is exported first. The precision is written into the graph, so the builder does not choose one.

    TensorRT for RTX builds without a GPU. If there is a GPU, the engine is run and compared with the model. Exit code
    3: the engine failed the parity check; 4: the check was inconclusive.
    """
    settings: Settings = ctx.obj
    refuse_unused(ctx, ["calib", "method", "samples"], options["int8"] or options["fp8"], "--int8 or --fp8")
    from deploy.support.tensorrt_library import find_library

    if not print_trtexec:
        find_library(options["runtime"])
    from deploy.engines.build import build_engine, trtexec_line
    from deploy.engines.request import BuildRequest
    from deploy.terminal.trt import show_built

    request = pack(options, BuildRequest)
    with settings.progress() as progress:
        if print_trtexec:
            line = trtexec_line(request, artifacts=settings.artifacts, progress=progress)
            emit(line.to_dict(), as_json, lambda: results.echo(line.line))
            return 0
        report = build_engine(request, artifacts=settings.artifacts, progress=progress)
    emit(report.to_dict(), as_json, lambda: show_built(report))
    return EXIT[report.verdict or "measured"]


@command.command(
    epilog="""\b
Examples:
  deploy trt inspect artifacts/resnet18/resnet18.int8-tensorrt-rtx.engine
"""
)
@click.argument("engine", type=path)
@json_option
@click.pass_obj
def inspect(settings: Settings, engine: Path, as_json: bool) -> int:
    """Show an engine's inputs, outputs, profiles, sizes and the precision of its layers.

    ENGINE is first verified against its manifest, since an engine contains code. It is opened if it fits the installed
    library and the GPU; otherwise the manifest is shown, with the reason.
    """
    from deploy.engines.inspect import inspect_engine
    from deploy.terminal.trt import show_engine

    with settings.progress() as progress:
        report = inspect_engine(engine, progress=progress)
    emit(report.to_dict(), as_json, lambda: show_engine(report))
    return 0


@command.command(
    epilog="""\b
Examples:
  deploy trt preflight artifacts/resnet18/resnet18.int8-tensorrt-rtx.engine
  deploy trt preflight resnet18.fp16-tensorrt-rtx.engine --compute-capability 8.6,12.0
"""
)
@click.argument("engine", type=path)
@option(
    "--compute-capability",
    "compute_capabilities",
    type=Several(),
    default=(),
    metavar="8.6,12.0",
    help="GPUs on which the engine must run.",
)
@json_option
def preflight(engine: Path, compute_capabilities: tuple[str, ...], as_json: bool) -> int:
    """Show on which GPUs and drivers an engine will run, before it is shipped.

    ENGINE is verified against its manifest and not opened; no GPU is needed. Exit code 3: it does not run on a GPU of
    --compute-capability, as far as the manifest and the installed library tell.
    """
    from deploy.engines.preflight import preflight_engine
    from deploy.terminal.trt import show_preflight

    report = preflight_engine(engine, compute_capabilities=compute_capabilities)
    emit(report.to_dict(), as_json, lambda: show_preflight(report))
    return 3 if report.missing else 0
