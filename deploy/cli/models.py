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
@click.option("--layers", "as_layers", is_flag=True, help="The layer table of one model.")
@click.option("-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of the architecture, with --layers.")
@json_option
@click.pass_obj
def command(settings: Settings, pattern: str | None, as_layers: bool, options: tuple[str, ...], as_json: bool) -> None:
    """List what can be exported: the zoo, torchvision, and timm where it is installed.

    PATTERN is a name or a shell pattern. Parameters are counted without building the weights; without a PATTERN only
    the zoo's and torchvision's are.
    """
    from deploy.core.errors import UsageError
    from deploy.models.catalog import layers, list_models, to_dict
    from deploy.models.request import parse_options
    from deploy.models.resolve import known_names
    from deploy.terminal.models import show_layers, show_models

    if as_layers:
        if pattern is None:
            raise UsageError("--layers needs the name of a model.", "deploy models zoo/lenet5 --layers")
        table = layers(pattern, parse_options(options))
        emit({"model": pattern, "layers": to_dict(table)}, as_json, lambda: show_layers(pattern, table))
        return
    if pattern is None:
        timm = list_models("timm/*", sizes=False) if known_names("timm") else []
        lines = [*list_models("zoo/*"), *list_models("torchvision/*"), *timm]
    else:
        lines = list_models(pattern)
    emit({"models": to_dict(lines)}, as_json, lambda: show_models(lines))
