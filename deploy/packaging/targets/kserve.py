"""An InferenceService for KServe, beside the model repository that its Triton runtime reads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from deploy.core.errors import UsageError
from deploy.packaging.content import Content, PackageOptions
from deploy.packaging.targets import triton

REPOSITORY = "models"
FILE = "inferenceservice.yaml"

refuse = triton.refuse


def write(folder: Path, contents: Sequence[Content], options: PackageOptions) -> None:
    """Write the service, and the repository to be uploaded to its storage URI.

    Raises:
        UsageError: there is no storage URI, or the name is none that Kubernetes takes.
    """
    if not options.storage_uri:
        raise UsageError(
            "KServe fetches models from a storage URI.", "--storage-uri s3://bucket/models, and upload to it"
        )
    name = options.name or re.sub(r"[^a-z0-9]+", "-", contents[0].name.lower()).strip("-")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise UsageError(f"{name!r} is no name for a service: small letters, digits and hyphens.", "--name NAME")
    (folder / REPOSITORY).mkdir(exist_ok=True)
    triton.write(folder / REPOSITORY, contents, options)
    is_engine = any(content.artifacts[0].manifest.format == "engine" for content in contents)
    (folder / FILE).write_text(_service(name, options, is_engine), encoding="utf-8")


def graphs(folder: Path, content: Content) -> tuple[Path, Path, Path]:
    """Where the three graphs of a model's newest pipeline lie."""
    return triton.graphs(folder / REPOSITORY, content)


def _service(name: str, options: PackageOptions, is_engine: bool) -> str:
    quantities = [f"cpu: {json.dumps(options.cpu)}", f"memory: {json.dumps(options.memory)}"]
    if is_engine or options.device == "gpu":
        quantities.append('nvidia.com/gpu: "1"')
    lines = [
        "apiVersion: serving.kserve.io/v1beta1",
        "kind: InferenceService",
        "metadata:",
        f"  name: {name}",
        "spec:",
        "  predictor:",
        "    model:",
        "      modelFormat:",
        f"        name: {'tensorrt' if is_engine else 'onnx'}",
        "      runtime: kserve-tritonserver",
        "      protocolVersion: v2",
        f"      storageUri: {json.dumps(options.storage_uri)}",
        "      resources:",
    ]
    for kind in ("requests", "limits"):
        lines += [f"        {kind}:", *(f"          {quantity}" for quantity in quantities)]
    return "\n".join(lines) + "\n"
