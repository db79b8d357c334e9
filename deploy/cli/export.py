"""``deploy export``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from deploy.cli._arguments import FORMAT, ModelName, Several
from deploy.cli._common import (
    EXIT,
    Settings,
    coverage_options,
    emit,
    half_options,
    json_option,
    model_options,
    name_option,
    probes_option,
    samples_option,
)
from deploy.cli._options import (
    check_probes,
    labels_option,
    option,
    outputs_option,
    pack_labels,
    pack_model,
    pack_pipeline,
    pack_samples,
    postprocess_options,
    recipe_option,
)

if TYPE_CHECKING:
    from deploy.engines.convert import ConvertReport
    from deploy.exporting.export import ExportReport


@click.command(
    epilog="""\b
Examples:
  deploy export resnet18 --format onnx
  deploy export zoo/lenet5
  deploy export model.safetensors --arch resnet18 -o num_classes=10
  deploy export ./my-model --outputs logits,pred_boxes
  deploy export my_package.nets:build --input image:batch,3,64,64
  deploy export resnet50 --dynamic batch,height,width --precision fp16
  deploy export resnet18 --format tensorrt --precision fp16
  deploy export nets.py:yolo --with preprocessing,postprocessing --postprocess yolo
"""
)
@click.argument("model", type=ModelName(besides=(".onnx",)))
@option(
    "--format",
    type=FORMAT,
    default="onnx",
    metavar="onnx|tensorrt",
    help="tensorrt: export to ONNX, check it, and build an engine from it. deploy trt build has more options.",
)
@option(
    "--dynamic",
    metavar="NAMES|none",
    help="Dynamic dimensions, separated by commas. [default: batch, and those named in --input]",
)
@option("--opset", type=click.IntRange(7, 26), help="ONNX operator set. [default: the strategy's own]")
@option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "mixed"]),
    default="fp32",
    help="fp16, bf16: half precision, with as few nodes in float32 as hold; mixed: fp16 held to --min-sqnr (40). "
    "Inputs and outputs stay float32.",
)
@half_options
@option(
    "--strategy",
    type=click.Choice(["auto", "export", "trace"]),
    default="auto",
    help="export: torch.export; trace: run once and record; auto: the first that passes the parity check.",
)
@outputs_option
@recipe_option
@labels_option
@option(
    "--with",
    "parts",
    type=Several(),
    metavar="PARTS",
    default=(),
    show_default=False,
    help="Steps that become part of the graph, separated by commas: preprocessing (pictures of any size, as bytes) and "
    "postprocessing (detections in place of raw outputs).",
)
@postprocess_options
@option(
    "--suppression",
    type=click.Choice(["fixed", "operator"]),
    default="fixed",
    help="Form of suppression in the graph. fixed: tensors of fixed size, for every target; operator: ONNX's "
    "NonMaxSuppression, faster in ONNX Runtime and OpenVINO, refused by TensorRT for RTX.",
)
@samples_option
@probes_option
@coverage_options
@model_options
@name_option
@option("--force", is_flag=True, help="Replace an export of another model, or of trained weights by untrained ones.")
@json_option
@click.pass_obj
@click.pass_context
def command(ctx: click.Context, settings: Settings, /, as_json: bool, **options: Any) -> int:
    """Export MODEL to ONNX and check the file against it.

    MODEL is zoo/NAME, torchvision/NAME, timm/NAME, a bare NAME, hf/ORG/NAME, a folder with config.json,
    pkg.module:factory, path/file.py:factory, an ExportedProgram .pt2, or a checkpoint with --arch.

    The file and its manifest, which contains the result of the parity check, are written to artifacts/<model>/.

    Exit code 3: the file differs from the model and is written to rejected/ instead; 4: the comparison is
    inconclusive.
    """
    pack_model(options)
    pack_labels(options)
    pack_pipeline(ctx, options)
    if options["dynamic"] is not None:
        options["dynamic"] = [name for name in options["dynamic"].split(",") if name and name != "none"]
    check_probes(options)
    from deploy.terminal.export import show_export

    with settings.progress() as progress:
        pack_samples(options, progress)
        report = _export(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_export(report))
    return EXIT[report.verdict]


def _export(format: str, **options: Any) -> ExportReport | ConvertReport:
    if format == "onnx":
        from deploy.exporting.export import export_model

        return export_model(**options)
    from deploy.engines.convert import convert  # imports what builds engines

    return convert(format=format, **options)
