"""Open the model of a command, with the weights that ``deploy train`` left for it, if any."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from deploy.core.artifact import Artifact, manifest_path
from deploy.core.errors import ArtifactError
from deploy.core.model import Model
from deploy.core.plain import from_plain
from deploy.core.progress import Progress
from deploy.core.regular import read_document
from deploy.core.store import Store
from deploy.models.pipeline import in_graph
from deploy.models.request import ModelRequest, ModuleRequest, checkpoint_as_weights, split_key
from deploy.models.resolve import resolve_alone
from deploy.models.trusted import require_trusted
from deploy.tasks.pipeline import GraphPipeline


def open_model(request: ModelRequest, store: Store, progress: Progress) -> Model:
    """Build a model; a zoo model with weights ``auto`` gets its newest trained checkpoint, if there is one.

    A checkpoint of ``deploy train`` brings its preprocessing and class names.
    """
    checkpoint, given = trained_checkpoint(request, store), _given_checkpoint(request)
    if checkpoint is not None:
        manifest = checkpoint.manifest
        progress.note(f"weights: {checkpoint.path} ({manifest.weights.source}), the newest checkpoint of deploy train")
        options = {**manifest.reference.get("options", {}), **request.options}
        request = dataclasses.replace(request, weights=str(checkpoint.path), options=options)
    checkpoint = checkpoint or given
    model = resolve_alone(request, progress)
    if checkpoint is not None:
        checkpoint.verify()
        manifest = checkpoint.manifest
        model = model.replace(
            weights=dataclasses.replace(manifest.weights, sha256=model.weights.sha256),
            preprocessing=manifest.preprocessing or model.preprocessing,
            labels=manifest.labels or model.labels,
        )
    return in_graph(model, request.pipeline)


def _given_checkpoint(request: ModelRequest) -> Artifact | None:
    """Return the checkpoint of ``deploy train`` that a request names, with its manifest beside it, or None."""
    if isinstance(request, ModuleRequest):
        return None
    path, _ = split_key(checkpoint_as_weights(request).weights)
    beside = manifest_path(path)
    if path.suffix != ".safetensors" or not path.is_file() or not beside.is_file():
        return None
    try:
        facts = json.loads(read_document(beside))
    except ValueError:
        return None
    ours = isinstance(facts, dict) and facts.get("format") == "safetensors" and "files" in facts
    return Artifact.open(path) if ours else None


def trained_checkpoint(request: ModelRequest, store: Store) -> Artifact | None:
    """Return the newest checkpoint of ``deploy train`` for a zoo model with weights ``auto``, or None."""
    if isinstance(request, ModuleRequest):
        return None
    prefix, _, bare = request.name.rpartition("/")
    slug = request.folder or bare
    if request.weights != "auto" or prefix not in ("", "zoo") or request.name.endswith((".pt2", ".onnx")):
        return None
    for artifact in store.artifacts(slug):
        manifest = artifact.manifest
        best = manifest.format == "safetensors" and not manifest.options.get("last")
        if best and manifest.model == f"zoo/{bare}":
            return artifact
    return None


def request_of(artifact: Artifact) -> ModelRequest:
    """Return the request that builds the model of an artifact.

    Raises:
        ArtifactError: the manifest does not record one, or the model was a module in memory.
        UsageError: it names code that this user has not named, see `deploy.models.trusted`.
    """
    reference = artifact.manifest.reference
    if "module" in reference:
        raise ArtifactError(
            f"{artifact.path}: exported from a module in memory ({reference['module']}), "
            "which this command cannot build again.",
            "pass the module to the function of the Python API, or export a factory: deploy export FILE.py:FACTORY",
        )
    try:
        request = ModelRequest.from_dict(reference)
    except ValueError as exc:
        raise ArtifactError(
            f"{artifact.path}: the manifest does not record how to build the model.", "export the model again"
        ) from exc
    require_trusted(request, artifact.path)
    return request


def made_from(artifact: Artifact, request: ModuleRequest) -> bool:
    """Return whether an artifact was made from a module: of the same structure and weights, and for the same inputs."""
    from deploy.models.in_memory import weights_of

    manifest = artifact.manifest
    same = manifest.weights.identity == weights_of(request.module).identity
    return same and (not request.inputs or tuple(manifest.reference.get("inputs", ())) == request.inputs)


def with_recorded_inputs(request: ModuleRequest, artifacts: Sequence[Artifact]) -> ModuleRequest:
    """Return the request of a module with the inputs and outputs that its first artifact recorded, if it has none."""
    recorded = artifacts[0].manifest.reference if artifacts else {}
    pipeline = recorded.get("pipeline")
    return dataclasses.replace(
        request,
        inputs=request.inputs or tuple(recorded.get("inputs", ())),
        outputs=request.outputs or tuple(recorded.get("outputs", ())),
        pipeline=request.pipeline or (from_plain(GraphPipeline, pipeline) if pipeline else None),
    )
