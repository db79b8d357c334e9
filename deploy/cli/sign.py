"""``deploy sign``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.cli._common import Settings, emit, json_option


@click.command(
    epilog="""\b
Examples:
  deploy sign --key key.pem
  deploy sign artifacts/resnet18 --key key.pem
  deploy verify artifacts/resnet18 --key key.pub       where the files arrive
"""
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="A private key on an elliptic curve, PEM.")
@click.option("--signature", type=click.Path(path_type=Path), help="Where to write it. [default: FOLDER/model.sig]")
@json_option
@click.pass_obj
def command(settings: Settings, folder: Path | None, key: Path, signature: Path | None, as_json: bool) -> None:
    """Sign every file of a folder with a key of your own, offline.

    FOLDER is the artifacts directory by default, or a model's folder in it. What is not what its manifest says is not
    signed. `deploy verify --key` holds the folder against the signature.
    """
    from deploy.core.text import visible
    from deploy.tools.sign import sign

    report = sign(folder or settings.artifacts, key=key, signature=signature)
    emit(
        report.to_dict(),
        as_json,
        lambda: click.echo(visible(f"signed {report.folder}, {report.artifacts} artifacts: {report.signature}")),
    )
