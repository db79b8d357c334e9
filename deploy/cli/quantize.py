"""``deploy quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deploy.cli._common import EXIT, Settings, emit, json_option

if TYPE_CHECKING:
    from deploy.quantization.quantize import QuantizeReport


@click.command(
    epilog="""\b
Examples:
  deploy quantize --calib images/                          the newest export, for ONNX Runtime
  deploy quantize resnet18 --calib images/ --target openvino
  deploy quantize zoo/lenet5 --calib digits --max-drop 0.3
  deploy quantize theirs.onnx --calib images/ --preprocess crop=224 --preprocess mean=0.5,0.5,0.5 \\
      --preprocess std=0.5,0.5,0.5
"""
)
@click.argument("model", required=False)
@click.option(
    "--calib",
    required=True,
    metavar="DIR|FILE|NAME",
    help="Samples like those it will meet: a folder of images, .npy, .npz, or a bundled data set (digits).",
)
@click.option(
    "--target",
    default="onnxruntime",
    show_default=True,
    metavar="onnxruntime|openvino|tensorrt",
    help="What will run it: each wants other Q/DQ.",
)
@click.option(
    "--method",
    default="mse",
    show_default=True,
    metavar="minmax|percentile|entropy|mse",
    help="How the range of a tensor is chosen from what was seen of it.",
)
@click.option("--samples", type=click.IntRange(min=2), default=128, show_default=True, help="To calibrate with.")
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="Of top-1 that may be lost; layers go back to float until it holds. Needs labels.",
)
@click.option(
    "--min-sqnr", type=float, metavar="DB", help="That the worst output must reach; layers go back to float likewise."
)
@click.option("--fp16", "half", is_flag=True, help="What is not in eight bits in half precision; for tensorrt.")
@click.option("--report", "details", is_flag=True, help="Print the ten layers with the most noise.")
@click.option(
    "--preprocess",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change how images become the input, repeated: resize=256, crop=224, mean=…, std=…, interpolation=…, gray=…",
)
@click.option("--skip-bad", is_flag=True, help="Leave unreadable images out instead of refusing.")
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
    half: bool,
    details: bool,
    preprocess: tuple[str, ...],
    skip_bad: bool,
    as_json: bool,
) -> int:
    """Calibrate an export and write an INT8 graph that is right for its target.

    MODEL is the name of an exported model (it is exported first where it is not) or an ONNX file; without one, the
    newest float32 export.

    The file is judged against the float graph on samples it was not calibrated with, where there are any. Exit code
    3: --max-drop or --min-sqnr does not hold, whatever stays in float.
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
            half=half,
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
