"""The runners of one model, one after the other, on the same images."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import Artifact, Manifest
from deploy.core.errors import ArtifactError, BackendError, DeployError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model, Preprocessing, Weights
from deploy.core.progress import Progress
from deploy.core.runner import Runner
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec
from deploy.data.dataset import Dataset
from deploy.data.preprocess import prepare
from deploy.evaluation.accuracy import Answers
from deploy.evaluation.images import Classify, answers_of, image_preprocessing, labels_for
from deploy.models.open import open_model, request_of
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.support.lookup import manifest_beside
from deploy.support.runtime import Runtime, runtime_of

CHECKPOINT = "safetensors"
SILENTLY_LEFT_OUT = ("calibration",)
"""Formats that are no models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedModel:
    """A model and the artifacts of it that are judged.

    Attributes:
        name: as it was asked for.
        checkpoint: the weights that PyTorch runs, or None where they are found by the request.
        exports: files that other runtimes run.
    """

    name: str
    checkpoint: Artifact | None
    exports: tuple[Artifact, ...]

    @property
    def weights(self) -> list[Weights]:
        """Of every artifact."""
        every = (*self.exports, self.checkpoint) if self.checkpoint else self.exports
        return [artifact.manifest.weights for artifact in every]


@dataclass(frozen=True, slots=True)
class Judged:
    """What one runner answered.

    Attributes:
        artifact: the file it ran, or None for PyTorch with weights that are no artifact.
        weights: tells weights apart: equal for two runners that ought to answer alike.
    """

    artifact: Artifact | None
    slug: str
    runtime: str
    precision: str
    weights: tuple[Any, ...]
    answers: Answers
    matched: str


def subject(text: str, store: Store, progress: Progress) -> EvaluatedModel:
    """The artifacts of a model in the store, or the one that a path names.

    Raises:
        ArtifactError: the file has no manifest, or is of a format that nothing here runs.
    """
    if Path(text).suffix in (".onnx", ".engine", f".{CHECKPOINT}") and Path(text).is_file():
        found = [Artifact.open(Path(text))]
        found += _checkpoint_beside(found[0])
    else:
        found = [item for item in store.artifacts() if text in (item.manifest.model, item.manifest.slug)]
        found = [item for item in found if not item.manifest.options.get("last")]
    checkpoints = [item for item in found if item.manifest.format == CHECKPOINT]
    exports = [item for item in found if runtime_of(item.manifest.format, item.manifest.target)]
    for other in found:
        if other not in (*checkpoints, *exports) and other.manifest.format not in SILENTLY_LEFT_OUT:
            progress.note(f"{other.path} is left out: nothing here runs the format {other.manifest.format!r}")
    if found and not checkpoints and not exports:
        raise ArtifactError(f"{text}: none of its artifacts is of a format that can be run here.")
    exports.sort(key=lambda item: (item.manifest.precision != "fp32", item.path.name))
    return EvaluatedModel(name=text, checkpoint=checkpoints[0] if checkpoints else None, exports=tuple(exports))


def _checkpoint_beside(export: Artifact) -> list[Artifact]:
    """The checkpoint in the same folder that an export was made from: it is found wherever the folder has moved."""
    digest = export.manifest.weights.sha256
    found = [manifest_beside(path) for path in sorted(export.path.parent.glob(f"*.{CHECKPOINT}"))]
    return [item for item in found if item is not None and item.manifest.files[0].sha256 == digest][:1]


def judge(
    subject: EvaluatedModel, dataset: Dataset, store: Store, batch_size: int, progress: Progress
) -> Iterator[Judged]:
    """Answers of PyTorch, then of every export; each file is held against its digest before it is opened.

    Raises:
        DigestError: a file is not what its manifest records.
        DataError: the data does not fit the model.
        BackendError: a runtime refused a file or failed.
    """
    model = _reference(subject, store, progress)
    if model is not None:
        runner = PyTorchRunner(model)
        with progress.stage(f"{model.name}: PyTorch"):
            call = _classifier(runner, model.inputs[0])
            answers, matched = _answers(
                call, dataset, image_preprocessing(model), model.labels, model.name, batch_size, progress
            )
        yield Judged(subject.checkpoint, model.slug, "torch", "fp32", model.weights.identity, answers, matched)
    for export in subject.exports:
        export.verify()
        manifest = export.manifest
        runtime = runtime_of(manifest.format, manifest.target)
        if runtime is None:
            continue
        recipe = manifest.preprocessing or (image_preprocessing(model) if model is not None else None)
        if recipe is None:
            raise ArtifactError(f"{export.path}: its manifest does not say how images become its input.")
        with progress.stage(f"{export.path.name}: {runtime.title}"), _opened(export, runtime) as opened:
            call = _classifier(opened, opened.inputs[0])
            name = manifest.model
            most = min(batch_size, _greatest(manifest))
            answers, matched = _answers(call, dataset, recipe, manifest.labels, name, most, progress)
        yield Judged(
            export, manifest.slug, runtime.name, manifest.precision, manifest.weights.identity, answers, matched
        )


def _greatest(manifest: Manifest) -> int:
    """The largest batch that a file takes: an engine's profiles bound it."""
    shapes = [item["max"] for profile in manifest.options.get("profiles", ()) for item in profile.values()]
    return max((shape[0] for shape in shapes), default=sys.maxsize)


@contextmanager
def _opened(artifact: Artifact, runtime: Runtime) -> Iterator[IsolatedRunner]:
    with IsolatedRunner(runtime.backend.name) as runner:
        runner.open(artifact.path, **runtime.options())
        if len(runner.inputs) != 1:
            raise BackendError(f"{artifact.path}: takes {len(runner.inputs)} inputs, not one batch of images.")
        yield runner


def _reference(subject: EvaluatedModel, store: Store, progress: Progress) -> Model | None:
    """The model in PyTorch; None, said aloud, where only its exports are left."""
    if subject.checkpoint is not None:
        return _from_checkpoint(subject.checkpoint, progress)
    if not subject.exports:
        return open_model(ModelRequest(name=subject.name), store, progress)
    newest = max(subject.exports, key=lambda item: item.manifest.created)
    try:
        return open_model(request_of(newest), store, progress)
    except DeployError as exc:
        progress.warn(f"{newest.path}: its model cannot be run in PyTorch, so nothing is compared: {exc.message}")
        return None


def _from_checkpoint(checkpoint: Artifact, progress: Progress) -> Model:
    checkpoint.verify()
    manifest = checkpoint.manifest
    request = dataclasses.replace(request_of(checkpoint), weights=str(checkpoint.path))
    model = resolve(request, progress)
    return model.replace(
        preprocessing=manifest.preprocessing or model.preprocessing, labels=manifest.labels or model.labels
    )


def _classifier(runner: Runner, spec: TensorSpec) -> Classify:
    """A function from images to the first output; a fixed batch dimension is filled up and cut off again."""
    size = spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else None

    def run(images: NDArray[np.float32]) -> NDArray[Any]:
        outputs = runner.run({spec.name: images.astype(spec.dtype)})
        return next(iter(outputs.values()))

    def classify(images: NDArray[np.float32]) -> NDArray[Any]:
        if size is None:
            return run(images)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            parts.append(run(filled)[: len(part)])
        return np.concatenate(parts)

    return classify


def _answers(
    classify: Classify,
    dataset: Dataset,
    preprocessing: Preprocessing,
    names: tuple[str, ...],
    model: str,
    batch_size: int,
    progress: Progress,
) -> tuple[Answers, str]:
    dataset.labeled()
    first = classify(prepare(dataset.images[0], preprocessing)[None])
    if first.ndim != 2:
        raise BackendError(f"{model}: an output of shape {list(first.shape)} is not one row of logits an image.")
    labels, matched = labels_for(dataset, first.shape[1], names, model)
    return answers_of(classify, dataset, labels, preprocessing, batch_size, progress.advance), matched
