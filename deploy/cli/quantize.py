"""``deploy quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deploy.cli._common import EXIT, Settings, emit, json_option
from deploy.quantization import DEFAULT_METHOD, DEFAULT_SAMPLES

if TYPE_CHECKING:
    from deploy.quantization.quantize import QuantizeReport


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
@click.argument("model", required=False)
@click.option(
    "--calib",
    required=True,
    metavar="DIR|FILE|NAME",
    help="Calibration data: a folder of images, a .npy or .npz file, or a bundled data set (digits).",
)
@click.option(
    "--target",
    default="onnxruntime",
    show_default=True,
    metavar="onnxruntime|openvino|tensorrt",
    help="Runtime that the INT8 file is made for.",
)
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
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="Largest allowed drop of top-1 accuracy, in percentage points; needs labels. Layers are kept in float "
    "until it is met.",
)
@click.option(
    "--min-sqnr",
    type=float,
    metavar="DB",
    help="Lowest allowed SQNR of any output, in dB. Layers are kept in float until it is met.",
)
@click.option("--fp16", is_flag=True, help="Compute layers that are not INT8 in FP16; only for tensorrt.")
@click.option("--report", "details", is_flag=True, help="Print the ten layers with the most noise.")
@click.option(
    "--preprocess",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the model's preprocessing; repeatable: resize=256, crop=224, mean=…, std=…, interpolation=…, gray=…",
)
@click.option("--skip-bad", is_flag=True, help="Skip unreadable images instead of failing.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    model: str | None,
    calib: str,
    target: str,
    method: str,
    samples: int,
    max_drop: float | None,
    min_sqnr: float | None,
    fp16: bool,
    details: bool,
    preprocess: tuple[str, ...],
    skip_bad: bool,
    as_json: bool,
) -> int:
    """Quantize a float32 export to INT8 for one target.

    MODEL is the name of a model or an ONNX file; by default, the newest float32 export. A model without a float32
    export is exported first.

    The INT8 graph is compared with the float graph, on samples that were not used for calibration if there are any.
    Exit code 3: --max-drop or --min-sqnr cannot be met, or an output value is not finite.
    """
    from deploy.quantization.quantize import quantize

    with settings.progress() as progress:
        report = quantize(
            model,
            calib=calib,
            target=target,
            method=method,
            samples=samples,
            max_drop=max_drop,
            min_sqnr=min_sqnr,
            fp16=fp16,
            preprocess=preprocess,
            skip_bad=skip_bad,
            artifacts=settings.artifacts,
            progress=progress,
        )
    emit(report.to_dict(), as_json, lambda: _show(report, details))
    return EXIT[report.verdict]


def _show(report: QuantizeReport, details: bool) -> None:
    from deploy.terminal.quantize import show_quantized

    show_quantized(report, details)
