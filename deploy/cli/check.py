"""``deploy check``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._common import (
    EXIT,
    Settings,
    coverage_options,
    emit,
    json_option,
    model_options,
    probes_option,
    samples_option,
)
from deploy.cli._options import REQUEST_OPTIONS, option, outputs_option, pack_model, pack_samples, path, refuse_unused


@click.command(
    epilog="""\b
Examples:
  deploy check                                   the newest export against its model
  deploy check resnet18 --onnx other.onnx        a file made by another exporter
  deploy check resnet18 --weights best.pt --onnx other.onnx --locate
  deploy check resnet18 --backend openvino       run the file with another backend
"""
)
@click.argument("model", required=False)
@option("--onnx", type=path, help="ONNX file to check. [default: the newest export]")
@option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    help="Precision of the file. [default: from its manifest, else fp32]",
)
@option("--backend", default="onnxruntime", metavar="NAME", help="Backend that runs the file.")
@option("--locate", "locate_fault", is_flag=True, help="Find the first tensor that differs from the model.")
@outputs_option
@samples_option
@probes_option
@coverage_options
@model_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **options: Any) -> int:
    """Check an ONNX file against MODEL.

    The reference is MODEL in float64. The file passes if its noise-to-signal ratio is at most four times that of
    PyTorch in the same precision, for every output, at several sizes of every dynamic dimension.

    Exit code 3: the file differs from the model; 4: the comparison is inconclusive.
    """
    from deploy.exporting.check import check
    from deploy.terminal.check import show_check

    settings: Settings = ctx.obj
    refuse_unused(ctx, REQUEST_OPTIONS, options["model"] is not None, "MODEL")
    pack_model(options)
    with settings.progress() as progress:
        pack_samples(options, progress)
        report = check(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_check(report))
    return EXIT[report.parity.verdict]
