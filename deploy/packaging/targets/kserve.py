"""An InferenceService for KServe, beside the model repository that its Triton runtime reads."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from deploy.core.backend import ENGINE
from deploy.core.errors import UsageError
from deploy.packaging.target import Images, PackageItem, PackageOptions, PipelineOutput
from deploy.packaging.targets import triton

REPOSITORY = "models"
FILE = "inferenceservice.yaml"


def write(folder: Path, items: Sequence[PackageItem], options: PackageOptions) -> None:
    """Write the service and the model repository to upload to its storage URI."""
    if not options.storage_uri:
        raise UsageError(
            "--for kserve needs the storage URI that the models will be uploaded to.",
            "--storage-uri s3://bucket/models",
        )
    name = options.name or re.sub(r"[^a-z0-9]+", "-", items[0].name.lower()).strip("-")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise UsageError(
            f"{name!r} is not a valid service name: use lowercase letters, digits and hyphens.", "--name NAME"
        )
    (folder / REPOSITORY).mkdir(exist_ok=True)
    triton.write(folder / REPOSITORY, items, options)
    is_engine = any(item.manifest.format == ENGINE for item in items)
    (folder / FILE).write_text(_service(name, options, is_engine), encoding="utf-8")


def classify(folder: Path, item: PackageItem, images: Images) -> PipelineOutput | None:
    """Run images through a pipeline's graphs; see `triton.classify`."""
    return triton.classify(folder / REPOSITORY, item, images)


def _service(name: str, options: PackageOptions, is_engine: bool) -> str:
    quantities = [f"cpu: {json.dumps(options.cpu)}", f"memory: {json.dumps(options.memory)}"]
    if is_engine or options.device == "cuda":
        quantities.append('nvidia.com/gpu: "1"')
    resources = "\n          ".join(quantities)
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    model:
      modelFormat:
        name: {"tensorrt" if is_engine else "onnx"}
      runtime: kserve-tritonserver
      protocolVersion: v2
      storageUri: {json.dumps(options.storage_uri)}
      resources:
        requests:
          {resources}
        limits:
          {resources}
"""


TARGET = dataclasses.replace(
    triton.TARGET,
    name="kserve",
    title="KServe",
    write=write,
    options=(*triton.TARGET.options, "name", "storage_uri", "cpu", "memory"),
    classify=classify,
)
