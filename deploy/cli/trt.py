"""``deploy trt``: TensorRT engines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli._common import EXIT, Settings, emit, json_option
from deploy.quantization import DEFAULT_METHOD, DEFAULT_SAMPLES

if TYPE_CHECKING:
    from deploy.engines.build import BuildReport
    from deploy.engines.inspect import EngineReport

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A size in bytes: a number, or one with KiB, MiB or GiB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the text."""
        match = re.fullmatch(r"(\d+)\s*([a-z]*)", str(value).strip().lower())
        if match is None or match[2] not in _UNITS:
            self.fail(f"{value!r} is not a size such as 2GiB.", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


@click.group(
    epilog="""\b
Examples:
  deploy trt build                                 the newest export, in float32
  deploy trt build --int8 --calib images/
  deploy trt inspect artifacts/resnet18/resnet18.int8-tensorrt-rtx.engine
"""
)
def command() -> None:
    """Build and inspect TensorRT engines."""


@command.command(
    epilog="""\b
Examples:
  deploy trt build --int8 --calib images/          the newest export
  deploy trt build resnet18 --fp16 --batch 1:16:64
  deploy trt build resnet18 --int8 --fp16 --calib images/ --compute-capability 8.6,8.9
  deploy trt build zoo/lenet5 --int8 --calib digits --runtime tensorrt-rtx
  deploy trt build resnet18 --batch 1:1:1,8:16:32  two profiles: single samples and batches
  deploy trt build resnet18 --fp16 --print-trtexec
"""
)
@click.argument("model", required=False)
@click.option("--fp16", is_flag=True, help="Use FP16 weights and activations; inputs and outputs stay float32.")
@click.option("--int8", is_flag=True, help="Quantize to INT8 with --calib; with --fp16, other layers compute in FP16.")
@click.option("--calib", metavar="DIR|FILE|NAME", help="Calibration data, as in deploy quantize.")
@click.option(
    "--method",
    default=DEFAULT_METHOD,
    show_default=True,
    metavar="minmax|percentile|entropy|mse",
    help="How the range of each tensor is chosen.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=2),
    default=DEFAULT_SAMPLES,
    show_default=True,
    help="Number of calibration samples.",
)
@click.option(
    "--batch",
    metavar="MIN:OPT:MAX[,…]",
    help="Range of batch sizes; several ranges make several optimization profiles. [default: 1:8:32]",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME:MIN:OPT:MAX[,…]",
    help="Range of another dynamic dimension, or of the shape of an input; repeatable.",
)
@click.option(
    "--runtime",
    default="auto",
    show_default=True,
    metavar="tensorrt|tensorrt-rtx|auto",
    help="Library that builds the engine. auto: tensorrt if it is installed and there is a GPU, else tensorrt-rtx.",
)
@click.option("--workspace", type=Size(), metavar="2GiB", help="Limit of scratch GPU memory. [default: the library's]")
@click.option(
    "--timing-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of measured kernel times, read and written; only for tensorrt.",
)
@click.option(
    "--optimization-level",
    type=click.IntRange(0, 5),
    help="Builder optimization level: a higher level searches longer. [default: the library's]",
)
@click.option(
    "--compute-capability",
    metavar="8.6,12.0",
    default="",
    help="GPUs to build for; only for tensorrt-rtx. [default: all]",
)
@click.option("--print-trtexec", is_flag=True, help="Print the command of NVIDIA's own tool instead of building.")
@json_option
@click.pass_obj
def build(
    settings: Settings,
    model: str | None,
    fp16: bool,
    int8: bool,
    calib: str | None,
    method: str,
    samples: int,
    batch: str | None,
    shapes: tuple[str, ...],
    runtime: str,
    workspace: int | None,
    timing_cache: Path | None,
    optimization_level: int | None,
    compute_capability: str,
    print_trtexec: bool,
    as_json: bool,
) -> int:
    """Build a TensorRT engine from a float32 export.

    MODEL is the name of a model or an ONNX file; by default, the newest float32 export. A model without a float32
    export is exported first. The precision is written into the graph, so the builder does not choose one.

    TensorRT for RTX builds without a GPU. If there is a GPU, the engine is run and compared with the model. Exit code
    3: the engine failed the parity check; 4: the check was inconclusive.
    """
    from deploy.engines.build import BuildRequest, build_engine, trtexec_line

    request = BuildRequest(
        model=model,
        fp16=fp16,
        int8=int8,
        calib=calib,
        method=method,
        samples=samples,
        batch=batch,
        shapes=shapes,
        runtime=runtime,
        workspace_bytes=workspace,
        timing_cache=timing_cache,
        optimization_level=optimization_level,
        compute_capabilities=tuple(text for text in compute_capability.split(",") if text),
    )
    with settings.progress() as progress:
        if print_trtexec:
            line = trtexec_line(request, artifacts=settings.artifacts, progress=progress)
        else:
            report = build_engine(request, artifacts=settings.artifacts, progress=progress)
    if print_trtexec:
        emit(line.to_dict(), as_json, lambda: click.echo(line.line))
        return 0
    emit(report.to_dict(), as_json, lambda: _show(report))
    return EXIT[report.verdict or "measured"]


@command.command(
    epilog="""\b
Examples:
  deploy trt inspect artifacts/resnet18/resnet18.int8-tensorrt-rtx.engine
"""
)
@click.argument("engine", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def inspect(settings: Settings, engine: Path, as_json: bool) -> int:
    """Show an engine's inputs, outputs, profiles, sizes and the precision of its layers.

    ENGINE is first verified against its manifest, since an engine contains code. It is opened if it fits the installed
    library and the GPU; otherwise the manifest is shown, with the reason.
    """
    from deploy.engines.inspect import inspect_engine

    with settings.progress() as progress:
        report = inspect_engine(engine, progress=progress)
    emit(report.to_dict(), as_json, lambda: _show_engine(report))
    return 0


def _show(report: BuildReport) -> None:
    from deploy.terminal.trt import show_built

    show_built(report)


def _show_engine(report: EngineReport) -> None:
    from deploy.terminal.trt import show_engine

    show_engine(report)
