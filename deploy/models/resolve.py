"""From what the user typed to a `Model`, with the weights that were asked for or a refusal."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from deploy.core import registry
from deploy.core.artifact import sha256
from deploy.core.errors import MissingPackageError, UnknownNameError, UsageError, WeightsError
from deploy.core.model import UNTRAINED, Model, Weights
from deploy.core.progress import SILENT, Progress
from deploy.models import python, untrained
from deploy.models import weights as files
from deploy.models.request import ModelRequest

SOURCES = "deploy.models.sources"
PRECEDENCE = ("zoo", "torchvision", "timm")
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".pth.tar", ".ckpt", ".bin")


def resolve(request: ModelRequest, progress: Progress = SILENT) -> Model:
    """Build the model, with weights, ready to run.

    Args:
        request: what was asked for; equal requests give bitwise equal models.
        progress: told of everything that was chosen on the user's behalf.

    Raises:
        UnknownNameError: no such model.
        ModelError: it cannot be built.
        WeightsError: its weights cannot be had, do not fit, or are not finite.
    """
    request = checkpoint_as_weights(request)
    path = Path(request.name)
    if path.suffix == ".onnx":
        raise UsageError(
            f"{path}: an ONNX file is an artifact, not a model to export.",
            f"deploy check MODEL --onnx {path}",
        )
    model, source, bare = architecture(request)
    model = model.replace(reference=request.to_dict())
    if source is None:
        model = _own_weights(model, request, progress)
    else:
        model = _weights(model, source, bare, request, progress)
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    files.check_finite(model.module, model.weights.source if model.weights.trained else model.name)
    return model


def known_names(source: str) -> list[str]:
    """Bare names a source offers; empty where its package is not installed."""
    try:
        return list(_source(source).names())
    except MissingPackageError:
        return []


def _source(name: str) -> ModuleType:
    try:
        return registry.load(SOURCES, name, "model source")
    except ModuleNotFoundError as exc:
        raise MissingPackageError(exc.name or name, f"{name}/ models", f"deploy-toolkit[{name}]") from exc


def checkpoint_as_weights(request: ModelRequest) -> ModelRequest:
    """``deploy export model.safetensors --arch resnet18`` is ``deploy export resnet18 --weights model.safetensors``."""
    path = Path(request.name)
    is_checkpoint = request.name.endswith(CHECKPOINTS) and ":" not in request.name
    if not is_checkpoint:
        if request.arch is not None:
            raise UsageError(f"--arch goes with a checkpoint file, and {request.name!r} is not one.")
        return request
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file.")
    if request.arch is None:
        raise UsageError(
            f"{path}: a checkpoint holds weights only.", "say which network they belong to: --arch resnet18"
        )
    return ModelRequest(
        name=request.arch,
        weights=str(path),
        seed=request.seed,
        inputs=request.inputs,
        options=request.options,
    )


def architecture(request: ModelRequest) -> tuple[Model, ModuleType | None, str]:
    """The architecture alone, with the weights its constructor draws, seeded; on torch's present default device.

    Returns:
        The model, the source that built it (None for a factory or a program), and its name there.

    Raises:
        UnknownNameError: no such model.
        InputSpecError: ``--input`` does not fit it.
    """
    with untrained.seeded(request.seed):
        model, source, bare = _build(request, Path(request.name))
    return (model if source is None else python.with_inputs(model, request)), source, bare


def _build(request: ModelRequest, path: Path) -> tuple[Model, ModuleType | None, str]:
    name = request.name
    if path.suffix == ".pt2":
        return python.build_program(request, path), None, name
    if ":" in name:
        return python.build_factory(request, name), None, name
    prefix, slash, bare = name.partition("/")
    if slash:
        if prefix not in registry.names(SOURCES):
            raise UnknownNameError("model source", prefix, registry.names(SOURCES), _where(name))
        source = _source(prefix)
        if bare not in source.names():
            raise UnknownNameError(f"{prefix} model", bare, source.names())
        return source.build(bare, request), source, bare
    for candidate in (*PRECEDENCE, *(extra for extra in registry.names(SOURCES) if extra not in PRECEDENCE)):
        if name in known_names(candidate):
            source = _source(candidate)
            return source.build(name, request), source, name
    everything = [bare for candidate in registry.names(SOURCES) for bare in known_names(candidate)]
    raise UnknownNameError("model", name, everything, "deploy models lists them")


def _where(name: str) -> str | None:
    return f"a file is path/file.py:factory; {name} has no colon" if name.endswith(".py") else None


def _own_weights(model: Model, request: ModelRequest, progress: Progress) -> Model:
    """A factory or a program brings its weights; a file may replace them."""
    if request.weights == "default":
        raise WeightsError(f"{model.name} has no published weights.", "--weights auto takes those it is built with")
    if request.weights == "none":
        return _untrained(model, request)
    if request.weights != "auto":
        return _from_file(model, Path(request.weights), progress)
    progress.note(f"weights: as {model.name} builds them (whether they are trained is for you to know)")
    return model


def _weights(model: Model, source: ModuleType, bare: str, request: ModelRequest, progress: Progress) -> Model:
    if request.weights == "none":
        return _untrained(model, request)
    if request.weights not in ("auto", "default"):
        return _from_file(model, Path(request.weights), progress)
    try:
        return _published(model, source, bare)
    except WeightsError as exc:
        if request.weights == "default":
            raise
        progress.warn(
            f"{model.name} is UNTRAINED: {exc.message} Its parameters are seeded random numbers (seed {request.seed}): "
            "good for timing and for testing the export, worthless for predictions. "
            "Give trained ones with --weights FILE."
        )
        return _untrained(model, request)


def _published(model: Model, source: ModuleType, bare: str) -> Model:
    found = source.published(bare, model)
    if found is None:
        raise WeightsError(f"no weights are published for {model.name}.")
    url, label, _ = found
    path = files.fetch(url, source.cache_folder())
    state, _ = files.read_state_dict(path)
    files.fit(model.module, state, str(path))
    return model.replace(weights=Weights(source=label, trained=True, sha256=sha256(path)))


def _from_file(model: Model, path: Path, progress: Progress) -> Model:
    state, notes = files.read_state_dict(path)
    for note in notes:
        progress.note(note)
    files.fit(model.module, state, str(path))
    return model.replace(weights=Weights(source=str(path), trained=True, sha256=sha256(path)))


def _untrained(model: Model, request: ModelRequest) -> Model:
    untrained.jitter(model.module, request.seed)
    untrained.settle(model, request.seed)
    return model.replace(weights=Weights(source=UNTRAINED, trained=False, seed=request.seed))
