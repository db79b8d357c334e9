"""``deploy adopt``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._arguments import SLUG, existing
from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import labels_option, option, pack_labels, path, recipe_option


@click.command(
    epilog="""\b
Examples:
  deploy adopt theirs.onnx
  deploy adopt theirs.onnx --labels labels.txt --preprocess crop=224 --preprocess mean=0.5,0.5,0.5 \\
      --preprocess std=0.5,0.5,0.5
  deploy adopt theirs.onnx --labels cat,dog --name pets --force
"""
)
@click.argument("path", metavar="FILE", type=path, callback=existing)
@labels_option
@recipe_option
@option("--name", type=SLUG, metavar="NAME", help="Name of the model and of its folder. [default: the stem of FILE]")
@option("--force", is_flag=True, help="Replace the manifest that FILE has.")
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> int:
    """Write a manifest for an ONNX file that was made elsewhere.

    The manifest is written beside FILE: digests, inputs and outputs, precision, and the class names and preprocessing
    that you give. Then `deploy verify` and `deploy sign` cover the file, and every command knows how to feed it images.

    The file is not run, and stays unproven: no model is known to compare it with. `deploy check` compares it with a
    model, or with another ONNX file.
    """
    from deploy.terminal.adopt import show_adopted
    from deploy.tools.adopt import adopt

    pack_labels(options)
    with settings.progress() as progress:
        report = adopt(**options, progress=progress)
    emit(report.to_dict(), as_json, lambda: show_adopted(report))
    return 0
