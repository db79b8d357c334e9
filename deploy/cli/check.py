"""``deploy check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli._common import EXIT, Settings, emit, json_option, model_options, request, samples_option

if TYPE_CHECKING:
    from deploy.exporting.check import CheckReport


@click.command(
    epilog="""\b
Examples:
  deploy check                                   the newest export, against its own model
  deploy check resnet18 --onnx theirs.onnx       a file that somebody else made
  deploy check resnet18 --weights best.pt --onnx theirs.onnx --locate
  deploy check resnet18 --backend openvino       the same file, run by another runtime
"""
)
@click.argument("model", required=False)
@click.option("--onnx", type=click.Path(path_type=Path), help="The file. [default: the newest export]")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    help="What the file computes in. [default: its manifest's, else fp32]",
)
@click.option(
    "--backend", default="onnxruntime", show_default=True, metavar="NAME", help="What runs the file: a plug-in's name."
)
@click.option("--locate", "locate_fault", is_flag=True, help="Name the first tensor that leaves the model.")
@samples_option
@model_options
@json_option
@click.pass_obj
def command(
    settings: Settings,
    model: str | None,
    onnx: Path | None,
    precision: str | None,
    backend: str,
    locate_fault: bool,
    data: str | None,
    weights: str,
    arch: str | None,
    seed: int,
    inputs: tuple[str, ...],
    options: tuple[str, ...],
    as_json: bool,
) -> int:
    """Is an ONNX file equal to MODEL?

    The reference is MODEL in float64. The file may differ from it by four times as much as PyTorch's own run in the
    file's precision does, on every probe, at every size of every dynamic dimension. Exit code 3: it is not equal;
    4: no comparison could tell.
    """
    from deploy.exporting.check import check
    from deploy.exporting.samples import load_samples

    asked = request(model, weights, arch, seed, inputs, options) if model else None
    with settings.progress() as progress:
        report = check(
            asked,
            onnx=onnx,
            artifacts=settings.artifacts,
            precision=precision,
            backend=backend,
            locate_fault=locate_fault,
            samples=load_samples(data, progress),
            progress=progress,
        )

    emit(report.to_dict(), as_json, lambda: _show(report))
    return EXIT[report.parity.verdict]


def _show(report: CheckReport) -> None:
    from deploy.exporting.check import RUNTIME
    from deploy.terminal.check import parity_rows, show_check
    from deploy.terminal.console import console, escape, rows, weights_line

    if report.backend == RUNTIME:
        show_check(report)
        return
    proof = parity_rows(report.parity)  # which speaks of ONNX Runtime, as exports are proven on it
    pairs = [
        ("file", f"[bold]{escape(str(report.path))}[/]"),
        ("model", escape(report.model.name)),
        ("trained", weights_line(report.model.weights)),
        ("run by", escape(report.backend)),
        *((name, text.replace("ONNX Runtime", escape(report.backend), 1)) for name, text in proof),
    ]
    console().print(rows(pairs))
