"""``deploy check``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploy.cli._arguments import BACKEND, MODEL, existing
from deploy.cli._common import (
    EXIT,
    MIN_SQNR,
    Settings,
    coverage_options,
    emit,
    json_option,
    model_options,
    probes_option,
    samples_option,
)
from deploy.cli._options import (
    REQUEST_OPTIONS,
    check_probes,
    device_option,
    option,
    outputs_option,
    pack_model,
    pack_samples,
    path,
    refuse_unused,
)
from deploy.core.errors import ArtifactError, UsageError


@click.command(
    epilog="""\b
Examples:
  deploy check                                   the newest export against its model
  deploy check resnet18 --onnx other.onnx        a file made by another exporter
  deploy check resnet18 --weights best.pt --onnx other.onnx --locate
  deploy check resnet18 --backend openvino       run the file with another backend
  deploy check resnet18 --precision fp16 --device cuda   what a GPU makes of it
  deploy check new.onnx --against old.onnx       one ONNX file against another
"""
)
@click.argument("model", required=False, type=MODEL)
@option("--onnx", type=path, callback=existing, help="ONNX file to check. [default: the newest export]")
@option(
    "--against",
    type=path,
    callback=existing,
    help="ONNX file in place of MODEL: the reference is this file, evaluated in float64.",
)
@option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    help="Precision of the file. [default: from its manifest, else fp32]",
)
@MIN_SQNR
@option("--backend", type=BACKEND, default="onnxruntime", metavar="NAME", help="Backend that runs the file.")
@device_option
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
    PyTorch in the same precision, for every output, at several sizes of every dynamic dimension. An ONNX file in place
    of MODEL is checked against the model that its manifest records.

    Exit code 3: the file differs from the model; 4: the comparison is inconclusive.
    """
    settings: Settings = ctx.obj
    _pack_files(options)
    refuse_unused(ctx, REQUEST_OPTIONS, options["model"] is not None, "MODEL")
    pack_model(options)
    check_probes(options)
    from deploy.exporting.check import check
    from deploy.terminal.check import show_check

    with settings.progress() as progress:
        pack_samples(options, progress)
        report = check(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_check(report))
    return EXIT[report.parity.verdict]


def _pack_files(options: dict[str, Any]) -> None:
    """Replace ``FILE.onnx --against OTHER.onnx`` by the file and its model.

    Raises:
        UsageError: a file without what it is checked against, or with two things.
    """
    model, against = options["model"], options.pop("against")
    if str(model).endswith(".onnx") and options["onnx"] is None:
        options["model"], options["onnx"] = None, Path(model)
    if against is None:
        return
    if options["onnx"] is None or options["model"] is not None:
        raise UsageError("--against needs one file that is checked.", f"deploy check FILE.onnx --against {against}")
    if not against.is_file():
        raise ArtifactError(f"{against}: no such file.")
    options["model"] = str(against)
