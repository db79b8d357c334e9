"""``deploy models``."""

from __future__ import annotations

import click

from deploy.cli._common import Settings, emit, json_option


@click.command(
    epilog="""\b
Examples:
  deploy models
  deploy models 'resnet*'
  deploy models zoo/googlenet_gray --layers
"""
)
@click.argument("pattern", required=False)
@click.option("--layers", "as_layers", is_flag=True, help="Show the layers of one model.")
@click.option("-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of the architecture, with --layers.")
@json_option
@click.pass_obj
def command(settings: Settings, pattern: str | None, as_layers: bool, options: tuple[str, ...], as_json: bool) -> None:
    """List the models that can be exported: the zoo, torchvision, and timm if it is installed.

    PATTERN is a name or a shell pattern. Parameters are counted without memory for the weights. Without PATTERN, those
    of timm's models are not counted.
    """
    from deploy.core.errors import UsageError
    from deploy.core.plain import to_plain
    from deploy.models.catalog import layers, list_models
    from deploy.models.request import parse_options
    from deploy.terminal.models import show_layers, show_models

    if as_layers:
        if pattern is None:
            raise UsageError("--layers needs the name of a model.", "deploy models zoo/lenet5 --layers")
        table = layers(pattern, parse_options(options))
        emit({"model": pattern, "layers": to_plain(table)}, as_json, lambda: show_layers(pattern, table))
        return
    if options:
        raise UsageError("-o is only used with --layers.")
    lines = list_models(pattern)
    emit({"models": to_plain(lines)}, as_json, lambda: show_models(lines))
