"""``deploy package``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.cli._common import Settings, emit, json_option

if TYPE_CHECKING:
    from deploy.packaging.package import PackagedModel


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
@click.option("--for", "server", required=True, metavar="triton|kserve|standalone", help="What is to take it.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Of the files that names stand for; int8 is the file for ONNX Runtime.",
)
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Samples that may be put together."
)
@click.option(
    "--max-delay-us", type=click.IntRange(min=0), default=100, show_default=True, help="A request waits for others."
)
@click.option("--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Of each model.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True, help="auto: the server's."
)
@click.option(
    "--preprocessing/--no-preprocessing",
    "pictures",
    default=True,
    show_default=True,
    help="Also the way from a picture to names.",
)
@click.option("--data", metavar="NAME|DIR|FILE", help="Pictures for the proof, besides those that are drawn.")
@click.option("--storage-uri", help="Of kserve: where you will upload the repository.")
@click.option("--name", help="Of kserve: the service. [default: the first model's]")
@click.option("--cpu", default="1", show_default=True, help="Of kserve: what the service asks for.")
@click.option("--memory", default="2Gi", show_default=True, help="Of kserve: what the service asks for.")
@click.option("--output", type=click.Path(path_type=Path), help="The folder. [default: ARTIFACTS/packages/SERVER]")
@click.option("--allow-untrained", is_flag=True, help="Package weights that mean nothing.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    models: tuple[str, ...],
    server: str,
    precision: str,
    max_batch: int,
    max_delay_us: int,
    instances: int,
    device: str,
    pictures: bool,
    data: str | None,
    storage_uri: str | None,
    name: str | None,
    cpu: str,
    memory: str,
    output: Path | None,
    allow_untrained: bool,
    as_json: bool,
) -> None:
    """Write what a server takes: a Triton model repository, a KServe service, or a folder with a script.

    MODELS are names in the artifacts directory, or files there; without one, the model of the newest export. Only files
    whose parity was shown and whose weights are trained are packaged. Pictures go through the package and through
    PyTorch before it is published; a float32 package that names one otherwise is not. `deploy verify` holds a package
    against its list. Exit code 3: it did not answer as PyTorch does.
    """
    from deploy.core.text import visible
    from deploy.packaging.package import PackageOptions, package_models

    if server != "kserve" and (storage_uri or name):
        raise click.UsageError("--storage-uri and --name go with --for kserve.")
    options = PackageOptions(
        max_delay_us=max_delay_us,
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
            max_batch=max_batch,
            pictures=pictures,
            data=data,
            output=output,
            options=options,
            allow_untrained=allow_untrained,
            artifacts=settings.artifacts,
            progress=progress,
        )

    def show() -> None:
        for model in report.models:
            click.echo(visible(f"{model.name}: {_told(model)}"))
        click.echo(visible(f"packaged for {report.server}: {report.folder}"))

    emit(report.to_dict(), as_json, show)


def _told(model: PackagedModel) -> str:
    proof: Any = model.proof
    if proof is None:
        return f"tensors in, tensors out ({model.without})" if model.without else "tensors in, tensors out"
    equal = "" if proof.equal_inputs is None else f"{proof.equal_inputs} of {proof.pictures} prepared to the bit, "
    ties = f", {proof.ties} of the others tied" if proof.ties else ""
    return f"{equal}{proof.same} of {proof.pictures} pictures named as by PyTorch{ties}"
