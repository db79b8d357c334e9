"""What a package target declares about itself, and what it is given to package.

Each plug-in of ``deploy.packaging.targets`` is a module that imports no runtime at its top and defines ``TARGET``, a
`PackageTarget`. Third-party targets register through an entry point in the group ``deploy.packaging.targets`` that
loads a module with ``TARGET``.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.core import registry
from deploy.core.artifact import Artifact, Manifest, manifest_path
from deploy.core.backend import find_backend
from deploy.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE = "deploy.packaging.targets"
SAMPLE = "sample"
"""Output of the graph before a model, whatever the name of the model's input is."""

SCORES = "scores"
"""Input of the graph behind a model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """The ONNX graphs before and after a model that turn an image into labels.

    Attributes:
        preprocessing: serialized graph from ``image``, uint8 (height, width, 3), to `SAMPLE`, the model's input.
        labels: serialized graph from `SCORES`, the model's output, to ``label`` and ``probability``.
        top: number of labels it returns.
    """

    preprocessing: bytes
    labels: bytes
    top: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageItem:
    """One model to package.

    Attributes:
        artifacts: one ONNX file, or TensorRT engines for several GPUs.
        batch: name of the batch dimension; None if requests cannot be batched.
        pipeline: None if the model takes tensors only.
        no_pipeline: why there is no pipeline; empty if there is one.
    """

    name: str
    artifacts: tuple[Artifact, ...]
    batch: str | None
    labels: tuple[str, ...]
    pipeline: Pipeline | None
    no_pipeline: str = ""

    @property
    def manifest(self) -> Manifest:
        """Manifest of the first file; all files have the same format, precision, inputs and outputs."""
        return self.artifacts[0].manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageOptions:
    """How a server runs the packaged models.

    Attributes:
        max_batch: maximum batch size, in samples.
        max_delay_ms: how long a request may wait for others to join its batch, in milliseconds.
        instances: instances of each model.
        device: ``cpu``, ``cuda``, or ``auto`` to let the server choose.
        name: name of the service; default the name of the first model.
        storage_uri: where the package will be uploaded.
        cpu: CPUs that the service requests, a Kubernetes quantity.
        memory: memory that the service requests, a Kubernetes quantity.
    """

    max_batch: int = 32
    max_delay_ms: float = 0.1
    instances: int = 1
    device: str = "auto"
    name: str | None = None
    storage_uri: str | None = None
    cpu: str = "1"
    memory: str = "2Gi"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedLabel:
    """A class name and its probability."""

    label: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineOutput:
    """What a package answers to test images.

    Attributes:
        labels: for each image, labels and probabilities, the most probable first.
        equal_inputs: number of images whose preprocessed values equal Pillow's to the bit; None if not compared.
    """

    labels: list[tuple[RankedLabel, ...]]
    equal_inputs: int | None = None


Write = Callable[[Path, Sequence[PackageItem], PackageOptions], None]
Images = Sequence["NDArray[np.uint8]"]
"""Images, each (height, width, 3)."""
Classify = Callable[[Path, PackageItem, Images], PipelineOutput | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageTarget:
    """A package target's declaration.

    Attributes:
        name: name on the command line, ``triton``.
        title: display name, ``Triton Inference Server``.
        write: fills a folder with models: ``write(folder, items, options)``. For a target that holds several models,
            the folder may contain an earlier package to extend.
        backends: backends that correspond to the server's runtimes. The target takes the files that one of them
            opens as intended.
        excluded_targets: quantization targets of the backends whose files the server does not run.
        precisions: precisions it takes; empty for all.
        options: fields of `PackageOptions` that it uses; others are refused.
        single_model: a package holds one model and is always written anew.
        example: file name under which one test image is added to the package.
        classify: runs uint8 images (height, width, 3) through a packaged pipeline:
            ``classify(folder, item, images)``. Returns None if nothing on this machine can run the item. Without it,
            the pipeline is not checked.
    """

    name: str
    title: str
    write: Write
    backends: tuple[str, ...]
    excluded_targets: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    single_model: bool = False
    example: str | None = None
    classify: Classify | None = None

    def refusal(self, manifest: Manifest) -> str:
        """Return why the target does not take a file; empty if it does."""
        if self.precisions and manifest.precision not in self.precisions:
            return f"{self.title} does not take {manifest.precision} files"
        opened = any(find_backend(name).opens(manifest.format, manifest.target) for name in self.backends)
        if opened and manifest.target not in self.excluded_targets:
            return ""
        made_for = f" made for {manifest.target}" if manifest.target else ""
        return f"{self.title} does not run {manifest.format} files{made_for}"

    def check_options(self, options: PackageOptions) -> None:
        """Refuse options that the target does not use."""
        for field in dataclasses.fields(options):
            if field.name not in self.options and getattr(options, field.name) != field.default:
                raise UsageError(f"--{field.name.replace('_', '-')} is not used with --for {self.name}.")


def find_target(name: str) -> PackageTarget:
    """Return a package target by its name; see `deploy.core.registry.declaration`."""
    return registry.declaration(PACKAGE, name, PackageTarget, "package target")


def copy_artifact(artifact: Artifact, folder: Path) -> None:
    """Copy an artifact's files and write its manifest beside them; file names stay the same."""
    for payload in artifact.manifest.files:
        shutil.copyfile(artifact.path.with_name(payload.file), folder / payload.file)
    manifest_path(folder / artifact.path.name).write_text(artifact.manifest.to_json(), encoding="utf-8")
