"""``deploy sign``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import option, path
from deploy.terminal import results


@click.command(
    epilog="""\b
Examples:
  deploy sign --key key.pem
  deploy sign artifacts/resnet18 --key key.pem
  deploy verify artifacts/resnet18 --key key.pub       verify the signature
"""
)
@click.argument("folder", required=False, type=path)
@option("--key", required=True, type=path, help="Elliptic-curve private key, a PEM file.")
@option("--signature", type=path, help="Signature file. [default: FOLDER/model.sig]")
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> None:
    """Sign all files of a folder with your own key, offline.

    FOLDER is a model's folder or, by default, the artifacts directory. Its files are first compared with their
    manifests. `deploy verify --key` verifies the signature.
    """
    from deploy.core.text import visible
    from deploy.tools.sign import sign

    report = sign(options.pop("folder") or settings.artifacts, **options)
    emit(
        report.to_dict(),
        as_json,
        lambda: results.echo(visible(f"signed {report.folder} ({report.artifacts} artifacts): {report.signature}")),
    )
