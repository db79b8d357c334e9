"""``deploy export``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deploy.cli._common import EXIT, Settings, emit, json_option, model_options, request, samples_option

if TYPE_CHECKING:
    from deploy.engines.edges import Converted


@click.command(
    epilog="""\b
Examples:
  deploy export resnet18 --format onnx
  deploy export zoo/lenet5
  deploy export model.safetensors --arch resnet18 -o num_classes=10
  deploy export my_package.nets:build --input image:batch,3,64,64
  deploy export resnet50 --dynamic batch,height,width --precision fp16
  deploy export resnet18 --format tensorrt --precision fp16
"""
)
@click.argument("model")
@click.option(
    "--format",
    "format_",
    default="onnx",
    show_default=True,
    metavar="onnx|tensorrt",
    help="tensorrt: export to ONNX, prove that, and build an engine of it; deploy trt build has its options.",
)
@click.option(
    "--dynamic",
    metavar="NAMES|none",
    help="Dimensions that stay open, separated by commas. [default: batch, and those named in --input]",
)
@click.option("--opset", type=click.IntRange(7, 26), help="ONNX operator set. [default: the strategy's own]")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16: weights and activations in half, inputs and outputs float32.",
)
@click.option(
    "--strategy",
    type=click.Choice(["auto", "export", "trace"]),
    default="auto",
    show_default=True,
    help="export: torch.export; trace: run once and record; auto: the first that holds, saying which.",
)
@samples_option
@model_options
@json_option
@click.pass_obj
def command(
    settings: Settings,
    model: str,
    format_: str,
    dynamic: str | None,
    opset: int | None,
    precision: str,
    strategy: str,
    data: str | None,
    weights: str,
    arch: str | None,
    seed: int,
    inputs: tuple[str, ...],
    options: tuple[str, ...],
    as_json: bool,
) -> int:
    """Export MODEL and prove the file equal to it.

    MODEL is zoo/NAME, torchvision/NAME, timm/NAME, a bare NAME, pkg.module:factory, path/file.py:factory,
    an ExportedProgram .pt2, or a checkpoint with --arch.

    The file, its manifest and the proof go to artifacts/<model>/. Exit code 3 means that the file is not equal to
    the model (it is then kept under rejected/ only), 4 that no comparison could tell.
    """
    from deploy.engines.convert import convert
    from deploy.exporting.samples import load_samples

    asked = request(model, weights, arch, seed, inputs, options)
    names = None if dynamic is None else [name for name in dynamic.split(",") if name and name != "none"]
    with settings.progress() as progress:
        report = convert(
            asked,
            format_,
            artifacts=settings.artifacts,
            dynamic=names,
            opset=opset,
            precision=precision,
            strategy=strategy,
            samples=load_samples(data, progress),
            progress=progress,
        )

    def show() -> None:
        from deploy.terminal.export import show_export

        show_export(report.export)
        if report.engine is not None:
            from deploy.terminal.trt import show_built

            show_built(report.engine)
        for item in report.converted:
            _show_converted(item)

    emit(report.to_dict(), as_json, show)
    return EXIT[report.verdict]


def _show_converted(made: Converted) -> None:
    from deploy.terminal.console import console, escape, rows

    manifest, told = made.artifact.manifest, made.to_dict()
    reasons = made.parity.reasons[:5] if made.parity else ("the exporter names no backend that runs it",)
    pairs = [
        ("file", f"[bold]{escape(str(made.artifact.path))}[/]"),
        ("size", f"{told['bytes'] / 1e6:.1f} MB" + (f" in {len(told['files'])} files" if told["files"][1:] else "")),
        ("made by", escape(f"{made.edge}, in {manifest.precision}")),
        ("state", escape(told["state"] + (f", by {made.backend}" if made.backend else ""))),
        *(("", escape(reason)) for reason in reasons),
        ("took", f"{made.seconds:.1f} s"),
    ]
    console().print(rows(pairs))
