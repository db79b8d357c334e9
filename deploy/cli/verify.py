"""``deploy verify``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import option, path, refuse_unused
from deploy.terminal import results


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

    PATH is an artifact or a folder; the default is the artifacts directory. Nothing in it is changed. Exit code 3: a
    file differs from its manifest or from what was signed, or a process was killed while it published files. Files and
    records that were made from other weights than the export beside them are named as stale; the exit code stays.
    """
    from deploy.core.errors import ArtifactError
    from deploy.core.extras import require
    from deploy.core.text import visible
    from deploy.tools.verify import verify

    settings: Settings = ctx.obj
    refuse_unused(ctx, ["signature"], options["key"] is not None, "--key")
    if options["key"]:
        require("sign")
    folder = options.pop("path") or settings.artifacts
    report = verify(folder)
    if not (report.sound or report.problems or report.unfinished):
        raise ArtifactError(f"{folder}: no artifacts, records or packages to verify.", "deploy export MODEL")
    if options["key"]:
        from deploy.tools.sign import verify_signature

        verify_signature(folder, **options)

    def show() -> None:
        for sound in report.sound:
            results.echo(visible(f"ok       {sound}"))
        for problem in report.problems:
            results.echo(visible(f"PROBLEM  {problem}"))
        for place in report.unfinished:
            results.echo(visible(f"UNFINISHED  {place}: a process was killed; run its command again to finish"))
        for item in report.stale:
            results.echo(visible(f"STALE    {item}"))
        signature = "; signature verified" if options["key"] else ""
        results.echo(f"{len(report.sound)} ok, {len(report.problems)} problems{signature}")

    emit(report.to_dict(), as_json, show)
    return 3 if report.problems or report.unfinished else 0
