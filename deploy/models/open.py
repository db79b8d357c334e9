"""Opening the model a command is about; the artifact it means when it names none is found by `_stored`."""

from __future__ import annotations

import dataclasses

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


def request_of(artifact: Artifact) -> ModelRequest:
    """The request that built the model of an artifact.

    Raises:
        ArtifactError: its manifest does not say.
    """
    try:
        return ModelRequest.from_dict(artifact.manifest.reference)
    except TypeError as exc:
        raise ArtifactError(f"{artifact.path}: its manifest does not say how its model is built.") from exc
