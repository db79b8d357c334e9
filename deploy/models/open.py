"""Open the model of a command, with the weights that ``deploy train`` left for it, if any."""

from __future__ import annotations

import dataclasses

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError
from deploy.core.model import Model
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.models.trusted import require_trusted


def open_model(request: ModelRequest, store: Store, progress: Progress) -> Model:
    """Build a model; a zoo model with weights ``auto`` gets its newest trained checkpoint, if there is one."""
    checkpoint = trained_checkpoint(request, store)
    if checkpoint is None:
        return resolve(request, progress)
    manifest = checkpoint.manifest
    progress.note(f"weights: {checkpoint.path} ({manifest.weights.source}), the newest checkpoint of deploy train")
    checkpoint.verify()
    options = {**manifest.reference.get("options", {}), **request.options}
    model = resolve(dataclasses.replace(request, weights=str(checkpoint.path), options=options), progress)
    return model.replace(
        weights=dataclasses.replace(manifest.weights, sha256=model.weights.sha256),
        preprocessing=manifest.preprocessing or model.preprocessing,
        labels=manifest.labels or model.labels,
    )


def trained_checkpoint(request: ModelRequest, store: Store) -> Artifact | None:
    """Return the newest checkpoint of ``deploy train`` for a zoo model with weights ``auto``, or None."""
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
    """Return the request that builds the model of an artifact.

    Raises:
        ArtifactError: the manifest does not record one.
        UsageError: it names code that this user has not named, see `deploy.models.trusted`.
    """
    try:
        request = ModelRequest.from_dict(artifact.manifest.reference)
    except ValueError as exc:
        raise ArtifactError(
            f"{artifact.path}: the manifest does not record how to build the model.", "export the model again"
        ) from exc
    require_trusted(request, artifact.path)
    return request
