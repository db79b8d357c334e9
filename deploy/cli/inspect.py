"""``deploy inspect``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._arguments import existing
from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import count, option, path


@click.command(
    epilog="""\b
Examples:
  deploy inspect artifacts/resnet18/resnet18.fp32.onnx
  deploy inspect other.onnx --batch 8
"""
)
@click.argument("path", metavar="FILE", type=path, callback=existing)
@option("--batch", type=count, default=1, help="Batch size for the costs.")
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> None:
    """Describe an ONNX file: inputs, outputs, opset, operators, parameters, operations and memory traffic.

    The file is not run.
    """
    from deploy.terminal.inspect import show_inspect
    from deploy.tools.inspect import inspect

    report = inspect(**options)
    emit(report.to_dict(), as_json, lambda: show_inspect(report))
