"""What goes into a package, whatever server it is for."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy.core.artifact import Artifact, manifest_path
from deploy.core.tensors import TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """The graphs around a model: a picture goes in, names come out.

    Attributes:
        preprocessing: ONNX; ``image``, uint8 (height, width, 3), to the model's input.
        labels: ONNX; the model's output to ``label`` and ``probability``.
        top: names that come out.
    """

    preprocessing: bytes
    labels: bytes
    top: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """One model of a package.

    Attributes:
        name: what it is called on the server.
        artifacts: one ONNX file, or engines for several GPUs.
        batch: name of the dimension along which requests are put together; None where there is none.
        max_batch: samples that may be put together.
        labels: of its classes; empty where they have no names.
        pipeline: None where only tensors go in.
    """

    name: str
    artifacts: tuple[Artifact, ...]
    batch: str | None
    max_batch: int
    labels: tuple[str, ...]
    pipeline: Pipeline | None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""
        return self.artifacts[0].manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives."""
        return self.artifacts[0].manifest.outputs


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageOptions:
    """How a server runs what is packaged.

    Attributes:
        max_delay_us: how long a request may wait for others, microseconds.
        instances: of each model.
        device: ``auto`` leaves it to the server; ``cpu``, ``gpu``.
        name: of the service.
        storage_uri: where the package will lie, for a cluster.
        cpu, memory: what the service asks of a cluster, in its own units.
    """

    max_delay_us: int = 100
    instances: int = 1
    device: str = "auto"
    name: str | None = None
    storage_uri: str | None = None
    cpu: str = "1"
    memory: str = "2Gi"


def copy_artifact(artifact: Artifact, folder: Path) -> None:
    """Copy an artifact's files and its manifest, under their names."""
    for name in (*(payload.file for payload in artifact.manifest.files), manifest_path(artifact.path).name):
        shutil.copyfile(artifact.path.with_name(name), folder / name)
