"""``deploy package``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli._common import Settings, emit, json_option

if TYPE_CHECKING:
    from deploy.packaging.package import PackagedModel, PackageReport


@click.command(
    epilog="""\b
Examples:
  deploy package resnet18 --for triton --data photos/
  deploy package resnet18 lenet5 --for triton --precision int8 --max-batch 64 --device gpu
  deploy package artifacts/net/net.fp16.a10.engine artifacts/net/net.fp16.h100.engine --for triton
  deploy package resnet18 --for kserve --storage-uri s3://bucket/models
  deploy package lenet5 --for standalone --data digits
"""
)
@click.argument("models", nargs=-1)
@click.option(
    "--for",
    "server",
    required=True,
    metavar="TARGET",
    help="Target server: triton, kserve, standalone (no server), or the name of a plug-in.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Precision of the files, for MODELS given by name.",
)
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Maximum batch size, in samples."
)
@click.option(
    "--max-delay-ms",
    type=click.FloatRange(min=0),
    default=0.1,
    show_default=True,
    help="How long a request may wait for others to join its batch, in milliseconds.",
)
@click.option(
    "--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Number of instances of each model."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Device of the models; auto lets the server choose.",
)
@click.option(
    "--preprocessing/--no-preprocessing",
    default=True,
    show_default=True,
    help="Package preprocessing and labels, so that the server takes images.",
)
@click.option(
    "--data", metavar="NAME|DIR|FILE", help="Images for the check against PyTorch, in addition to synthetic ones."
)
@click.option("--storage-uri", metavar="URI", help="Where the models will be uploaded; for kserve.")
@click.option("--name", help="Name of the service; for kserve. [default: the first model's]")
@click.option("--cpu", default="1", show_default=True, help="CPUs that the service requests; for kserve.")
@click.option("--memory", default="2Gi", show_default=True, help="Memory that the service requests; for kserve.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Output directory. [default: packages/TARGET in the artifacts directory]",
)
@click.option("--allow-untrained", is_flag=True, help="Package models with untrained weights.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    models: tuple[str, ...],
    server: str,
    precision: str,
    max_batch: int,
    max_delay_ms: float,
    instances: int,
    device: str,
    preprocessing: bool,
    data: str | None,
    storage_uri: str | None,
    name: str | None,
    cpu: str,
    memory: str,
    output: Path | None,
    allow_untrained: bool,
    as_json: bool,
) -> None:
    """Write a Triton model repository, a KServe service, or a standalone folder.

    MODELS are names in the artifacts directory, or files there; default the model of the newest export. Only files that
    passed the parity check and have trained weights are packaged. Before a package is published, test images are run
    through it and through PyTorch; a float32 package that returns other labels is not published. `deploy verify` checks
    a package for changes.

    Exit code 3: the labels of the package differ from PyTorch's.
    """
    from deploy.core.plain import to_plain
    from deploy.packaging.package import PackageOptions, package_models

    options = PackageOptions(
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        instances=instances,
        device=device,
        name=name,
        storage_uri=storage_uri,
        cpu=cpu,
        memory=memory,
    )
    with settings.progress() as progress:
        report = package_models(
            models,
            server=server,
            precision=precision,
            preprocessing=preprocessing,
            data=data,
            output=output,
            options=options,
            allow_untrained=allow_untrained,
            artifacts=settings.artifacts,
            progress=progress,
        )
    emit(to_plain(report), as_json, lambda: _show(report))


def _show(report: PackageReport) -> None:
    from deploy.core.text import visible

    for model in report.models:
        click.echo(visible(f"{model.name}: {_summary(model)}"))
    click.echo(visible(f"packaged for {report.server}: {report.folder}"))


def _summary(model: PackagedModel) -> str:
    check = model.proof
    if check is None:
        return f"labels not compared with PyTorch ({model.without})"
    text = f"{check.same_first_label} of {check.pictures} test images have the same label as in PyTorch"
    if check.ties:
        text += f", {check.ties} of the others are ties"
    if check.equal_inputs is not None:
        text += f"; {check.equal_inputs} of {check.pictures} preprocessed identically to the bit"
    return text
