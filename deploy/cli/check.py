"""``deploy check``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.cli._common import EXIT, Settings, emit, json_option, model_options, request, samples_option


@click.command(
    epilog="""\b
Examples:
  deploy check                                   the newest export, against its own model
  deploy check resnet18 --onnx theirs.onnx       a file that somebody else made
  deploy check resnet18 --weights best.pt --onnx theirs.onnx --locate
"""
)
@click.argument("model", required=False)
@click.option("--onnx", type=click.Path(path_type=Path), help="The file. [default: the newest export]")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    help="What the file computes in. [default: its manifest's, else fp32]",
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
    from deploy.workflows._samples import load_samples
    from deploy.workflows.check import check

    asked = request(model, weights, arch, seed, inputs, options) if model else None
    with settings.progress() as progress:
        report = check(
            asked,
            onnx=onnx,
            artifacts=settings.artifacts,
            precision=precision,
            locate_fault=locate_fault,
            samples=load_samples(data, progress),
            progress=progress,
        )

    def show() -> None:
        from deploy.report.terminal import show_check

        show_check(report)

    emit(report.to_dict(), as_json, show)
    return EXIT[report.parity.verdict]
