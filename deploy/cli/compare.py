"""``deploy compare``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._arguments import MODEL, Device, ModelName
from deploy.cli._common import EXIT, Settings, emit, json_option
from deploy.cli._options import (
    Percent,
    batch_option,
    calib_option,
    option,
    precision_option,
    seed_option,
    sizes_option,
    threads_option,
)


@click.command(
    epilog="""\b
Examples:
  deploy compare old/m.fp32.onnx new/m.fp32.onnx --fail-if-slower 3%
  deploy compare torch onnxruntime --model resnet18
  deploy compare resnet18@openvino resnet18@onnxruntime
  deploy compare resnet18 mobilenet_v2 --batch 8
  deploy compare theirs.onnx ours.onnx --size length=128
"""
)
@click.argument("first", metavar="A", type=ModelName(with_backend=True))
@click.argument("second", metavar="B", type=ModelName(with_backend=True))
@option("--model", type=MODEL, metavar="MODEL", help="Model to run, where A and B are backends.")
@precision_option("Precision to run models in. [default: fp32; a file has its own]")
@batch_option
@sizes_option
@threads_option
@option("--device", type=Device(), help="Device. [default: the first that A and B both run on]")
@calib_option
@option("--margin", type=Percent(), default="2%", help="Differences below this count as equal.")
@option("--fail-if-slower", type=Percent(), metavar="3%", help="Exit with 3 if B is slower than A by more.")
@option(
    "--time-limit",
    "time_limit_s",
    type=click.FloatRange(min=1),
    default=60.0,
    help="Start no new pair of processes after this many seconds.",
)
@seed_option
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> int:
    """Tell whether B is faster than A, and whether that is more than noise.

    A and B are files, models, or backends of --model; WHAT@BACKEND names both. They run in pairs of fresh processes
    that take turns until the difference is decided or the time is up. The verdict on B is: faster, slower, no
    difference (within --margin), or cannot tell.

    Exit code 3: B is slower by more than --fail-if-slower; 4: the measurements cannot tell.
    """
    from deploy.bench.compare import compare_speed
    from deploy.terminal.compare import show_comparison

    with settings.progress() as progress:
        found = compare_speed(artifacts=settings.artifacts, progress=progress, **options)
    emit(found.to_dict(), as_json, lambda: show_comparison(found))
    return EXIT[found.guard or "pass"]
