"""``deploy models``."""

from __future__ import annotations

import click

from deploy.cli._common import emit, json_option
from deploy.cli._options import arch_option, option, refuse_unused


@click.command(
    epilog="""\b
Examples:
  deploy models
  deploy models 'resnet*'
  deploy models zoo/googlenet_gray --layers
"""
)
@click.argument("pattern", required=False)
@option("--layers", "as_layers", is_flag=True, help="Show the layers of one model.")
@arch_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, as_json: bool, pattern: str | None, as_layers: bool, options: tuple[str, ...]
) -> None:
    """List the models that can be exported: the zoo, torchvision, and timm if it is installed.

    PATTERN is a name or a shell pattern. Parameters are counted without memory for the weights. Without PATTERN, those
    of timm's models are not counted.
    """
    from deploy.core.plain import to_plain
    from deploy.models.catalog import list_models
    from deploy.models.request import parse_options
    from deploy.terminal.models import show_layers, show_models

    refuse_unused(ctx, ["as_layers"], pattern is not None, "the name of a model")
    refuse_unused(ctx, ["options"], as_layers, "--layers")
    if as_layers and pattern is not None:
        from deploy.models.layers import layers  # imports PyTorch

        table = layers(pattern, parse_options(options))
        emit({"model": pattern, "layers": to_plain(table)}, as_json, lambda: show_layers(pattern, table))
        return
    lines = list_models(pattern)
    emit({"models": to_plain(lines)}, as_json, lambda: show_models(lines))
