"""``deploy check``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.cli._common import EXIT, Settings, emit, json_option, model_options, request, samples_option


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
@click.option("--onnx", type=click.Path(path_type=Path), help="ONNX file to check. [default: the newest export]")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    help="Precision of the file. [default: from its manifest, else fp32]",
)
@click.option("--backend", default="onnxruntime", show_default=True, metavar="NAME", help="Backend that runs the file.")
@click.option("--locate", "locate_fault", is_flag=True, help="Find the first tensor that differs from the model.")
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
    """Check an ONNX file against MODEL.

    The reference is MODEL in float64. The file passes if its noise-to-signal ratio is at most four times that of
    PyTorch in the same precision, for every output, at several sizes of every dynamic dimension.

    Exit code 3: the file differs from the model; 4: the comparison is inconclusive.
    """
    from deploy.exporting.check import check

    asked = request(model, weights, arch, seed, inputs, options) if model else None
    with settings.progress() as progress:
        samples = None
        if data is not None:
            from deploy.exporting.samples import load_samples

            samples = load_samples(data, progress)
        report = check(
            asked,
            onnx=onnx,
            artifacts=settings.artifacts,
            precision=precision,
            backend=backend,
            locate_fault=locate_fault,
            samples=samples,
            progress=progress,
        )

    def show() -> None:
        from deploy.terminal.check import show_check

        show_check(report)

    emit(report.to_dict(), as_json, show)
    return EXIT[report.parity.verdict]
