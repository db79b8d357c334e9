"""``deploy trt``: TensorRT engines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli._common import EXIT, Settings, emit, json_option

if TYPE_CHECKING:
    from deploy.engines.build import BuildReport
    from deploy.engines.inspect import EngineReport

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Bytes: a number, or one with KiB, MiB or GiB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        match = re.fullmatch(r"(\d+)\s*([a-z]*)", str(value).strip().lower())
        if match is None or match[2] not in _UNITS:
            self.fail(f"{value!r} is not a size such as 2GiB.", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


@click.group(
    epilog="""\b
Examples:
  deploy trt build                                 the newest export, in float32
  deploy trt build --int8 --calib data/
  deploy trt inspect artifacts/resnet18/resnet18.int8-tensorrt-rtx.engine
"""
)
def command() -> None:
    """Build TensorRT engines, and tell what is in one."""


@command.command(
    epilog="""\b
Examples:
  deploy trt build --int8 --calib data/            the newest export
  deploy trt build resnet18 --fp16 --batch 1:16:64
  deploy trt build resnet18 --int8 --fp16 --calib data/ --compute-capability 8.6,8.9
  deploy trt build zoo/lenet5 --int8 --calib digits --runtime tensorrt-rtx
  deploy trt build resnet18 --batch 1:1:1,8:16:32  two profiles: alone, and in batches
  deploy trt build resnet18 --fp16 --print-trtexec
"""
)
@click.argument("model", required=False)
@click.option("--fp16", is_flag=True, help="Weights and activations in half; inputs and outputs stay float32.")
@click.option("--int8", is_flag=True, help="Q/DQ for TensorRT, calibrated with --calib; with --fp16 the rest in half.")
@click.option("--calib", metavar="DIR|FILE|NAME", help="Samples to calibrate with, as in deploy quantize.")
@click.option("--method", default="mse", show_default=True, metavar="minmax|percentile|entropy|mse")
@click.option("--samples", type=click.IntRange(min=2), default=128, show_default=True, help="To calibrate with.")
@click.option(
    "--batch",
    metavar="MIN:OPT:MAX[,…]",
    help="Batch sizes that the engine takes; several ranges make several profiles. [default: 1:8:32]",
)
@click.option("--shape", "shapes", multiple=True, metavar="NAME:MIN:OPT:MAX[,…]", help="Of another dimension or input.")
@click.option(
    "--runtime",
    default="auto",
    show_default=True,
    metavar="tensorrt|tensorrt-rtx|auto",
    help="auto: tensorrt where it is installed and there is a GPU, else tensorrt-rtx.",
)
@click.option("--workspace", type=Size(), metavar="2GiB", help="Scratch memory. [default: the library's]")
@click.option("--timing-cache", type=click.Path(dir_okay=False, path_type=Path), help="A file, read and written.")
@click.option("--optimization-level", "level", type=click.IntRange(0, 5), help="How long it looks. [default: its own]")
@click.option(
    "--compute-capability", metavar="8.6,12.0", default="", help="GPUs to prepare for; tensorrt-rtx. [default: all]"
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
    level: int | None,
    compute_capability: str,
    print_trtexec: bool,
    as_json: bool,
) -> int:
    """Build an engine from an export.

    MODEL is the name of an exported model (it is exported first where it is not) or an ONNX file; without one, the
    newest float32 export. The precision is written into the graph; the builder chooses none.

    TensorRT for RTX builds without a GPU. Where there is one, the engine is run and held against the model; exit code
    3 means that it is not equal to it, 4 that no comparison could tell. One that was not run is called so.
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
        level=level,
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
    """Tell what is in an engine: inputs, outputs, profiles, sizes, and what its layers compute in.

    The file is held against its manifest first: an engine is code. Where it fits the library and the GPU that are
    here, it is opened and asked itself; else its manifest speaks, and the reason is told.
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
