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
  deploy verify artifacts/resnet18 --key key.pub       verify the signature
"""
)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Elliptic-curve private key, a PEM file.")
@click.option("--signature", type=click.Path(path_type=Path), help="Signature file. [default: FOLDER/model.sig]")
@json_option
@click.pass_obj
def command(settings: Settings, folder: Path | None, key: Path, signature: Path | None, as_json: bool) -> None:
    """Sign all files of a folder with your own key, offline.

    FOLDER is a model's folder or, by default, the artifacts directory. Its files are first compared with their
    manifests. `deploy verify --key` verifies the signature.
    """
    from deploy.core.text import visible
    from deploy.tools.sign import sign

    report = sign(folder or settings.artifacts, key=key, signature=signature)
    emit(
        report.to_dict(),
        as_json,
        lambda: click.echo(visible(f"signed {report.folder} ({report.artifacts} artifacts): {report.signature}")),
    )
