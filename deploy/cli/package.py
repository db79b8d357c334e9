"""``deploy package``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli import _options as shared
from deploy.cli._arguments import DATA, MODEL, Device
from deploy.cli._common import Settings, emit, json_option
from deploy.cli._options import option, pack, path


@click.command(
    epilog="""\b
Examples:
  deploy package resnet18 --for triton --data photos/
  deploy package resnet18 lenet5 --for triton --precision int8 --max-batch 64 --device cuda
  deploy package artifacts/net/net.fp16.a10.engine artifacts/net/net.fp16.h100.engine --for triton
  deploy package resnet18 --for kserve --storage-uri s3://bucket/models
  deploy package lenet5 --for standalone --data digits
"""
)
@click.argument("models", nargs=-1, type=MODEL)
@option(
    "--for",
    "server",
    required=True,
    metavar="TARGET",
    help="Target server: triton, kserve, standalone (no server), or the name of a plug-in.",
)
@shared.precision_option("Precision of the files, for MODELS given by name. [default: fp32]")
@shared.max_batch_option
@shared.max_delay_option(0.1)
@shared.instances_option
@option(
    "--device",
    type=Device(("auto", "cpu", "cuda"), used=False),
    default="auto",
    help="Device of the models; auto lets the server choose.",
)
@option(
    "--preprocessing/--no-preprocessing",
    default=True,
    help="Package preprocessing and labels, so that the server takes images.",
)
@shared.recipe_option
@shared.labels_option
@option(
    "--data",
    type=DATA,
    metavar="NAME|DIR|FILE",
    help="Images for the check against PyTorch, in addition to synthetic ones.",
)
@option("--storage-uri", metavar="URI", help="Where the models will be uploaded; for kserve.")
@option("--name", help="Name of the service; for kserve. [default: the first model's]")
@option("--cpu", default="1", help="CPUs that the service requests; for kserve.")
@option("--memory", default="2Gi", help="Memory that the service requests; for kserve.")
@option("--output", type=path, help="Output directory. [default: packages/TARGET in the artifacts directory]")
@shared.allow_untrained_option
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> None:
    """Write a Triton model repository, a KServe service, or a standalone folder.

    MODELS are names in the artifacts directory, or files; default the model of the newest export. Only files that
    passed the parity check and have trained weights are packaged; an ONNX file whose model is not known is packaged
    with a warning, as unproven. Before a package is published, test images are run through it and through PyTorch, or
    through the file itself where the model is not known; a float32 package that returns other labels is not published.
    `deploy verify` checks a package for changes.

    Exit code 3: the labels of the package differ from the model's.
    """
    from deploy.core.plain import to_plain
    from deploy.packaging.package import PackageOptions, package_models
    from deploy.terminal.package import show_package

    shared.pack_labels(options)
    options["options"] = pack(options, PackageOptions)
    with settings.progress() as progress:
        report = package_models(artifacts=settings.artifacts, progress=progress, **options)
    emit(to_plain(report), as_json, lambda: show_package(report))
