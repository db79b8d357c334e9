"""``deploy profile``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._arguments import BACKENDS, MODEL
from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import (
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
  deploy profile resnet18
  deploy profile resnet18 --precision int8 --backends onnxruntime    INT8 beside FP32, layer by layer
  deploy profile artifacts/lenet5/lenet5.fp32.onnx --batch 8
  deploy profile theirs.onnx --size length=128
"""
)
@click.argument("model", type=MODEL)
@option(
    "--backends", type=BACKENDS, default=(), help="Backends, comma-separated. [default: installed ones that run files]"
)
@precision_option("Precision; int8 is shown beside fp32. [default: fp32; a file has its own]")
@batch_option
@sizes_option
@threads_option
@calib_option
@seed_option
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> int:
    """Show where the time of one call goes, by operator and layer.

    Each backend's own profiler measures the layers. With --precision int8 the FP32 profile stands beside it, so that
    layers that still compute in float, unfused Q/DQ pairs and slower layers can be seen.
    """
    from deploy.bench.profile import profile_model
    from deploy.terminal.profile import show_profiles

    with settings.progress() as progress:
        found = profile_model(artifacts=settings.artifacts, progress=progress, **options)
    emit({"cells": [item.to_dict() for item in found]}, as_json, lambda: show_profiles(found))
    return 0
