"""``deploy convert``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._arguments import MODEL
from deploy.cli._common import (
    EXIT,
    Settings,
    coverage_options,
    emit,
    half_options,
    json_option,
    name_option,
    probes_option,
    samples_option,
)
from deploy.cli._options import check_probes, option, pack_samples


@click.command(
    epilog="""\b
Examples:
  deploy convert theirs.onnx --precision fp16
  deploy convert resnet18 --precision bf16           the newest float32 export
  deploy convert theirs.onnx --precision mixed --min-sqnr 50
  deploy convert theirs.onnx --keep-float '*norm*'
"""
)
@click.argument("file", type=MODEL)
@option(
    "--precision",
    type=click.Choice(["fp16", "bf16", "mixed"]),
    default="fp16",
    help="fp16, bf16: half precision, with as few nodes in float32 as hold; mixed: fp16 held to --min-sqnr (40). "
    "Inputs and outputs stay float32.",
)
@half_options
@samples_option
@probes_option
@coverage_options
@name_option
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> int:
    """Put a float32 ONNX file in half precision, and check the result against it.

    FILE is an ONNX file, also one made by another exporter, or a model whose newest float32 export is taken. The
    reference is FILE in float64. Nodes stay in float32 where half precision does not hold; the output says which and
    why, and <file>.precision.json lists them.

    Exit code 3: the result differs from FILE and is written to rejected/ instead; 4: the comparison is inconclusive.
    """
    check_probes(options)
    from deploy.quantization.half import convert_precision
    from deploy.terminal.convert import show_half

    with settings.progress() as progress:
        pack_samples(options, progress)
        report = convert_precision(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_half(report))
    return EXIT[report.verdict]
