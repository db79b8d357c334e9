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
"""
)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def command(settings: Settings, path: Path | None, as_json: bool) -> int:
    """Hold artifacts against the digests in their manifests.

    PATH is an artifact or a folder; without it, the artifacts directory. Exit code 3: something is not what its
    manifest says.
    """
    from deploy.workflows.verify import verify

    report = verify(path or settings.artifacts)

    def show() -> None:
        for sound in report.sound:
            click.echo(f"sound    {sound}")
        for problem in report.problems:
            click.echo(f"WRONG    {problem}")
        click.echo(f"{len(report.sound)} sound, {len(report.problems)} wrong")

    emit(report.to_dict(), as_json, show)
    return 3 if report.problems else 0
