"""Build a model from its name, with the requested weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

from deploy.core import registry
from deploy.core.errors import MissingPackageError, UnknownNameError, WeightsError
from deploy.core.model import UNTRAINED, Model, Weights
from deploy.core.progress import SILENT, Progress
from deploy.models import untrained
from deploy.models import weights as files
from deploy.models.adapt import adapt
from deploy.models.known import FOLDERS, SOURCES, is_folder, source_names
from deploy.models.pipeline import in_graph
from deploy.models.request import ModelRequest, ModuleRequest, checkpoint_as_weights, split_key


def resolve(request: ModelRequest, progress: Progress = SILENT) -> Model:
    """Build a model as `resolve_alone`, with the steps of its pipeline."""
    return in_graph(resolve_alone(request, progress), request.pipeline)


def resolve_alone(request: ModelRequest, progress: Progress = SILENT) -> Model:
    """Build a model with its weights, in evaluation mode and without gradients; equal requests give equal bits.

    Raises:
        UnknownNameError: no model has this name.
        ModelError: the model cannot be built.
        WeightsError: the weights are not available, do not fit, or are not finite.
    """
    request = checkpoint_as_weights(request)
    model, source, bare = architecture(request)
    for note in model.notes:
        progress.note(note)
    model = model.replace(reference=request.to_dict(), slug=request.folder or model.slug)
    model = _load_weights(model, source, bare, request, progress)
    adapted = adapt(model)
    for note in adapted.notes[len(model.notes) :]:
        progress.note(note)
    model = adapted.replace(outputs=request.outputs)
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    if not request.is_onnx:  # its constants may be infinite on purpose, as in masks
        files.check_finite(model.module, model.weights.source if model.weights.trained else model.name)
    return _as_built(model, progress) if source is None and request.weights == "auto" else model


def architecture(request: ModelRequest) -> tuple[Model, ModuleType | None, str]:
    """Build a model with the weights that its constructor draws, seeded, on torch's default device.

    Returns:
        The model, the source that built it (None for a factory, an exported program or a module), and its name there.

    Raises:
        InputSpecError: ``--input`` does not fit the model.
    """
    with untrained.seeded(request.seed):
        if isinstance(request, ModuleRequest):
            from deploy.models import in_memory

            return in_memory.build(request), None, request.name
        if request.is_onnx:
            from deploy.models.onnx_model import build_graph

            return build_graph(request), None, request.name
        if request.name.endswith(".pt2") or ":" in request.name:
            from deploy.models import python

            build = python.build_program if request.name.endswith(".pt2") else python.build_factory
            return build(request), None, request.name
        source, bare = _find(request.name)
        model = source.build(bare, request)
        if request.inputs:
            from deploy.models.python import with_inputs

            model = with_inputs(model, request)
        return model, source, bare


def _find(name: str) -> tuple[ModuleType, str]:
    """Return the source of a model and the name of the model there."""
    prefix, slash, bare = name.partition("/")
    if is_folder(name):
        return _source(FOLDERS), name if name.startswith((".", "/", "~")) else f"./{name}"
    if slash:
        if prefix not in registry.names(SOURCES):
            hint = f"a file needs a factory: {name}:FACTORY" if name.endswith(".py") else None
            raise UnknownNameError("model source", prefix, registry.names(SOURCES), hint)
        source = _source(prefix)
        known = source.names()
        if known and bare not in known:
            raise UnknownNameError(f"{prefix} model", bare, known)
        return source, bare
    for candidate in source_names():
        if name in known_names(candidate):
            return _source(candidate), name
    everything = [bare for candidate in source_names() for bare in known_names(candidate)]
    raise UnknownNameError("model", name, everything, "list the models: deploy models")


def known_names(source: str) -> list[str]:
    """Return the model names of a source, without prefix; empty if its package is not installed."""
    try:
        return list(_source(source).names())
    except MissingPackageError:
        return []


def _source(name: str) -> ModuleType:
    try:
        return registry.load(SOURCES, name, "model source")
    except ModuleNotFoundError as exc:
        raise MissingPackageError(exc.name or name, f"{name}/ models", f"deploy-toolkit[{name}]") from exc


def _load_weights(
    model: Model, source: ModuleType | None, bare: str, request: ModelRequest, progress: Progress
) -> Model:
    if request.weights == "none":
        return _untrained(model, request.seed)
    if request.weights not in ("auto", "default"):
        return _load_file(model, request.weights, request.weights, progress)
    if source is not None and model.weights.source != UNTRAINED:  # loaded when it was built
        return model
    if source is None and request.weights == "auto":
        return model
    try:
        path, label = published_file(model, source, bare)
        return _load_file(model, str(path), label, SILENT)
    except WeightsError as exc:
        if request.weights == "default":
            raise
        progress.warn(
            f"{model.name} is UNTRAINED: {exc.message} Its parameters are random numbers (seed {request.seed}): "
            "good for timing and for testing the export, useless for predictions. "
            "Load trained weights with --weights FILE."
        )
        return _untrained(model, request.seed)


def _as_built(model: Model, progress: Progress) -> Model:
    """Return the model of a factory, a program or a module with the digest of its tensors."""
    if model.is_onnx:
        return model
    if untrained.is_fresh(model.module):
        progress.warn(
            f"{model.name} looks UNTRAINED: its parameters are as PyTorch initializes them: good for timing and for "
            "testing the export, useless for predictions."
        )
    else:
        progress.note(f"weights: as built by {model.name}; whether they are trained is not known")
    if model.weights.sha256 is not None:
        return model
    return model.replace(weights=dataclasses.replace(model.weights, sha256=files.state_digest(model.module)))


def published_file(model: Model, source: ModuleType | None, bare: str) -> tuple[Path, str]:
    """Return the file with the published weights of a model, downloaded if needed, and their label.

    Raises:
        WeightsError: there are no published weights, or they cannot be downloaded.
    """
    published = source.published(bare, model) if source is not None else None
    if published is None:
        raise WeightsError(f"{model.name}: no published weights.")
    url, label = published
    return files.fetch(url), label


def _load_file(model: Model, file: str, label: str, progress: Progress) -> Model:
    state, notes = files.read_state_dict(file, model.module)
    for note in notes:
        progress.note(note)
    files.load_into(model.module, state, file)
    return model.replace(weights=Weights(source=label, trained=True, sha256=files.digest(split_key(file)[0])))


def _untrained(model: Model, seed: int) -> Model:
    files.check_finite(model.module, model.name)
    untrained.perturb_constants(model.module, seed)
    untrained.set_batch_norm_statistics(model, seed)
    return model.replace(weights=Weights(source=UNTRAINED, trained=False, seed=seed))
