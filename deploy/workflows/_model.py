"""Opening the model a command is about, and the artifact it means when it names none."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError
from deploy.core.model import Model
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve


def open_model(request: ModelRequest, store: Store, progress: Progress) -> Model:
    """Resolve a model; a zoo model whose weights are left to us takes its newest trained checkpoint, if any.

    Raises:
        DeployError: as `deploy.models.resolve.resolve`.
    """
    checkpoint = trained_checkpoint(request, store)
    if checkpoint is None:
        return resolve(request, progress)
    progress.note(f"weights: {checkpoint.path} ({checkpoint.manifest.weights.source}), the newest trained here")
    checkpoint.verify()
    manifest = checkpoint.manifest
    options = {**manifest.reference.get("options", {}), **request.options}
    model = resolve(dataclasses.replace(request, weights=str(checkpoint.path), options=options), progress)
    return model.replace(
        weights=dataclasses.replace(manifest.weights, sha256=model.weights.sha256),
        preprocessing=manifest.preprocessing or model.preprocessing,
        labels=manifest.labels or model.labels,
    )


def trained_checkpoint(request: ModelRequest, store: Store) -> Artifact | None:
    """The newest checkpoint that `deploy train` left for a zoo model whose weights are ``auto``."""
    prefix, _, bare = request.name.rpartition("/")
    if request.weights != "auto" or prefix not in ("", "zoo") or request.name.endswith((".pt2", ".onnx")):
        return None
    for artifact in store.artifacts(bare):
        manifest = artifact.manifest
        best = manifest.format == "safetensors" and not manifest.options.get("last")
        if best and manifest.model == f"zoo/{bare}":
            return artifact
    return None


EXPORTS = ("fp32", "fp16")
"""Precisions that `deploy export` gives; what was converted later for a target is no export."""


def newest_export(
    store: Store, progress: Progress, *, name: str | None = None, precisions: Collection[str] = EXPORTS
) -> Artifact:
    """The artifact a command means when no file is named: the newest ONNX export (of a model), said aloud.

    Raises:
        ArtifactError: there is none.
    """
    for artifact in store.artifacts():
        manifest = artifact.manifest
        named = name in (None, manifest.model, manifest.slug, manifest.model.partition("/")[2])
        if named and manifest.format == "onnx" and manifest.precision in precisions and manifest.target is None:
            progress.note(f"taking {artifact.path}, the newest export")
            return artifact
    what = "ONNX export" if len(precisions) > 1 else f"{next(iter(precisions))} ONNX export"
    of = f" of {name}" if name else ""
    raise ArtifactError(f"{store.root}: no {what}{of} there.", f"deploy export {name or 'MODEL'} --format onnx")


def request_of(artifact: Artifact) -> ModelRequest:
    """The request that built the model of an artifact.

    Raises:
        ArtifactError: its manifest does not say.
    """
    try:
        return ModelRequest.from_dict(artifact.manifest.reference)
    except TypeError as exc:
        raise ArtifactError(f"{artifact.path}: its manifest does not say how its model is built.") from exc


def manifest_beside(path: Path) -> Artifact | None:
    """The artifact of a file, if it has a manifest of ours."""
    try:
        return Artifact.open(path)
    except ArtifactError:
        return None
