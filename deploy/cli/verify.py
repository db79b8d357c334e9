"""``deploy verify``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.cli._common import Settings, emit, json_option


@click.command(
    epilog="""\b
Examples:
  deploy verify
  deploy verify artifacts/resnet18/resnet18.fp32.onnx
  deploy verify artifacts/resnet18 --key key.pub       verify the signature too
"""
)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="Public key, a PEM file: also verify the signature.",
)
@click.option("--signature", type=click.Path(path_type=Path), help="Signature file. [default: PATH/model.sig]")
@json_option
@click.pass_obj
def command(settings: Settings, path: Path | None, key: Path | None, signature: Path | None, as_json: bool) -> int:
    """Compare artifacts with the digests in their manifests and, with --key, with a signature.

    PATH is an artifact or a folder; the default is the artifacts directory. Exit code 3: a file differs from its
    manifest or from what was signed.
    """
    from deploy.core.text import visible
    from deploy.tools.verify import verify

    if signature and not key:
        raise click.UsageError("--signature needs --key.")
    report = verify(path or settings.artifacts)
    if key:
        from deploy.tools.sign import verify_signature

        verify_signature(path or settings.artifacts, key=key, signature=signature)

    def show() -> None:
        for sound in report.sound:
            click.echo(visible(f"ok       {sound}"))
        for problem in report.problems:
            click.echo(visible(f"PROBLEM  {problem}"))
        signature = "; signature verified" if key else ""
        click.echo(f"{len(report.sound)} ok, {len(report.problems)} problems{signature}")

    emit(report.to_dict(), as_json, show)
    return 3 if report.problems else 0
