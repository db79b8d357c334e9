"""``deploy verify``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import option, path, refuse_unused


@click.command(
    epilog="""\b
Examples:
  deploy verify
  deploy verify artifacts/resnet18/resnet18.fp32.onnx
  deploy verify artifacts/resnet18 --key key.pub       verify the signature too
"""
)
@click.argument("path", required=False, type=path)
@option("--key", type=path, help="Public key, a PEM file: also verify the signature.")
@option("--signature", type=path, help="Signature file. [default: PATH/model.sig]")
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **options: Any) -> int:
    """Compare artifacts with the digests in their manifests and, with --key, with a signature.

    PATH is an artifact or a folder; the default is the artifacts directory. Exit code 3: a file differs from its
    manifest or from what was signed.
    """
    from deploy.core.text import visible
    from deploy.tools.verify import verify

    settings: Settings = ctx.obj
    refuse_unused(ctx, ["signature"], options["key"] is not None, "--key")
    folder = options.pop("path") or settings.artifacts
    report = verify(folder)
    if options["key"]:
        from deploy.tools.sign import verify_signature

        verify_signature(folder, **options)

    def show() -> None:
        for sound in report.sound:
            click.echo(visible(f"ok       {sound}"))
        for problem in report.problems:
            click.echo(visible(f"PROBLEM  {problem}"))
        signature = "; signature verified" if options["key"] else ""
        click.echo(f"{len(report.sound)} ok, {len(report.problems)} problems{signature}")

    emit(report.to_dict(), as_json, show)
    return 3 if report.problems else 0
