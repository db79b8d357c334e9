"""``deploy inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.cli._common import Settings, emit, json_option


@click.command(
    epilog="""\b
Examples:
  deploy inspect artifacts/resnet18/resnet18.fp32.onnx
  deploy inspect other.onnx --batch 8
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batch size for the costs.")
@json_option
@click.pass_obj
def command(settings: Settings, file: Path, batch: int, as_json: bool) -> None:
    """Describe an ONNX file: inputs, outputs, opset, operators, parameters, operations and memory traffic.

    The file is not run.
    """
    from deploy.tools.inspect import inspect

    report = inspect(file, batch=batch)

    def show() -> None:
        from deploy.terminal.inspect import show_inspect

        show_inspect(report)

    emit(report.to_dict(), as_json, show)
