"""The network that will be trained: its head made for the data, its weights fresh or taken from elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import torch

from deploy.core.artifact import sha256
from deploy.core.errors import DataError, ModelError, UsageError, WeightsError
from deploy.core.model import Model, Weights, name_outputs
from deploy.core.progress import Progress
from deploy.data.dataset import Dataset
from deploy.data.preprocess import prepare
from deploy.evaluation.images import image_preprocessing
from deploy.models import resolve as names
from deploy.models import weights as files
from deploy.models.request import ModelRequest

HEAD = "num_classes"
FRESH = ("none", "auto")


def build_for(request: ModelRequest, data: Dataset, progress: Progress) -> Model:
    """Build the network with as many outputs as the data has classes.

    Args:
        request: what to build; its weights are ``none`` (fresh, as the constructor draws them under the seed),
            ``default`` (published) or a file.
        data: the images to train on.
        progress: told what was chosen.

    Returns:
        The model with its preprocessing, the class names as labels, and a reference that carries the number of
        classes; its parameters still want gradients.

    Raises:
        UsageError: no such model, or not one that can be trained on images.
        DataError: the head does not fit the data, or the images do not fit the input.
        WeightsError: weights cannot be had, or do not fit.
    """
    classes = len(data.classes)
    request = _with_head(request, classes)
    model, source, bare = _build(request)
    preprocessing = image_preprocessing(model)
    model = _begin(model, source, bare, request, classes, progress)
    if len(preprocessing.mean) not in (1, 3):
        raise UsageError(f"{model.name} takes {len(preprocessing.mean)} channels, and images have 1 or 3.")
    sample = torch.from_numpy(prepare(data.images[0], preprocessing))[None]
    _check_head(model, sample, data)
    return model.replace(
        preprocessing=preprocessing,
        labels=data.classes,
        reference=dataclasses.replace(request, name=model.name).to_dict(),
    )


def _with_head(request: ModelRequest, classes: int) -> ModelRequest:
    """Ask for the right number of classes wherever the architecture is ours to size."""
    if request.name.endswith((".pt2", ".onnx")):
        raise UsageError(f"{request.name}: a finished graph cannot be trained.", "give the architecture it is of")
    if request.name.endswith(names.CHECKPOINTS) and ":" not in request.name:
        raise UsageError(
            f"{request.name}: a checkpoint is not an architecture.", f"deploy train ARCH --weights {request.name}"
        )
    given = request.options.get(HEAD)
    if given is not None and given != str(classes):
        raise DataError(f"-o {HEAD}={given}: the data has {classes} classes.", "leave it out; it is set by the data")
    if ":" in request.name:  # a factory of the user's: what it takes is not known, see `_check_head`
        return request
    return dataclasses.replace(request, options={**request.options, HEAD: str(classes)})


def _build(request: ModelRequest) -> tuple[Model, ModuleType | None, str]:
    try:
        return names.architecture(request)
    except UsageError as exc:
        if HEAD in exc.message:
            raise UsageError(f"{request.name} is not a classifier: {exc.message}") from exc
        raise


def _begin(
    model: Model, source: ModuleType | None, bare: str, request: ModelRequest, classes: int, progress: Progress
) -> Model:
    """Put the weights in that training begins with; `Weights.source` says which."""
    if request.weights in FRESH:
        return model.replace(weights=Weights(source="fresh weights", trained=False, seed=request.seed))
    if request.weights == "default":
        found = source.published(bare, model) if source is not None else None
        if source is None or found is None:
            raise WeightsError(f"no weights are published for {model.name}.")
        path, label = files.fetch(found[0], source.cache_folder()), str(found[1])
    else:
        path, label = Path(request.weights), Path(request.weights).name
    state, notes = files.read_state_dict(path)
    own = model.module.state_dict()
    head = [
        name
        for name, value in own.items()
        if name in state
        and value.dim()
        and value.shape[0] == classes != state[name].shape[:1].numel()
        and value.shape[1:] == state[name].shape[1:]
    ]
    if head:
        state.update({name: own[name] for name in head})
        notes.append(f"{label} has another number of classes: {', '.join(head)} begin fresh")
    for note in notes:
        progress.note(note)
    files.fit(model.module, state, str(path))
    files.check_finite(model.module, str(path))
    return model.replace(weights=Weights(source=label, trained=True, sha256=sha256(path), seed=request.seed))


def _check_head(model: Model, sample: torch.Tensor, data: Dataset) -> None:
    try:
        with torch.no_grad():
            outputs = name_outputs(model.module(sample))
    except RuntimeError as exc:
        raise ModelError(
            f"{model.name} cannot run an image of shape {list(sample.shape)}: {str(exc).splitlines()[0]}"
        ) from exc
    name, logits = next(iter(outputs.items()))
    if logits.dim() != 2:
        raise UsageError(f"{model.name} is not a classifier: output {name!r} has shape {list(logits.shape)}.")
    if logits.shape[1] != len(data.classes):
        raise DataError(
            f"{data.name} has {len(data.classes)} classes, and {model.name} has {logits.shape[1]} outputs.",
            "give its factory the number: -o KEY=NUMBER",
        )
