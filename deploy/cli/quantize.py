"""``deploy quantize``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._arguments import DATA, MODEL, TARGET
from deploy.cli._common import EXIT, Settings, emit, json_option, name_option
from deploy.cli._options import (
    calib_samples_option,
    effort_option,
    method_option,
    option,
    preprocess_option,
    refuse_together,
    skip_bad_option,
)
from deploy.core.cpu import CPUS


@click.command(
    epilog="""\b
Examples:
  deploy quantize --calib images/                          the newest export, for ONNX Runtime
  deploy quantize resnet18 --calib images/ --target openvino
  deploy quantize zoo/lenet5 --calib digits --max-drop 0.3
  deploy quantize model.onnx --calib images/ --preprocess crop=224 --preprocess mean=0.5,0.5,0.5 \\
      --preprocess std=0.5,0.5,0.5
"""
)
@click.argument("model", required=False, type=MODEL)
@option(
    "--calib",
    type=DATA,
    required=True,
    metavar="DIR|FILE|NAME",
    help="Calibration data: a folder of images, a .npy or .npz file, or a bundled data set (digits).",
)
@option(
    "--target",
    type=TARGET,
    default="onnxruntime",
    metavar="onnxruntime|openvino|tensorrt|tensorrt-fp8",
    help="Runtime that the INT8 file is made for; tensorrt-fp8 writes FP8 in place of INT8.",
)
@method_option
@calib_samples_option
@effort_option
@option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="Largest allowed drop, in percentage points: of top-1 accuracy by labels, of mAP by boxes, of mIoU by masks. "
    "Layers are kept in float until it is met.",
)
@option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="Lowest allowed SQNR of any output, in dB. Layers are kept in float until it is met.",
)
@option("--fp16", is_flag=True, help="Compute layers that are not INT8 in FP16; only for tensorrt.")
@option(
    "--cpu",
    type=click.Choice(list(CPUS)),
    help="CPU that the file is for: avx2 has no VNNI, so weights take seven bits. [default: this machine's]",
)
@option("--report", "details", is_flag=True, help="Print the ten layers with the most noise.")
@preprocess_option(
    "Change the model's preprocessing; repeatable: resize=256, crop=224, mean=…, std=…, interpolation=…, gray=…"
)
@skip_bad_option
@name_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, details: bool, **options: Any) -> int:
    """Quantize a float32 export to INT8 for one target.

    MODEL is the name of a model or an ONNX file; by default, the newest float32 export. A model without a float32
    export is exported first.

    The INT8 graph is compared with the float graph, on samples that were not used for calibration if there are any.
    Exit code 3: --max-drop or --min-sqnr cannot be met, or an output value is not finite; 4: without these bounds, an
    output has less than 10 dB, less than 90 % equal answers or a handful of values left.
    """
    settings: Settings = ctx.obj
    if as_json:
        refuse_together(ctx, ["details"], "--json, which lists the layers")
    from deploy.quantization.quantize import quantize
    from deploy.terminal.quantize import show_quantized

    with settings.progress() as progress:
        report = quantize(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_quantized(report, details))
    return EXIT[report.verdict]
