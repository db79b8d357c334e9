"""Build the network to train: a head for the classes of the data, and the initial weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType

import torch

from deploy.core.errors import DataError, ModelError, UsageError
from deploy.core.model import Model, Weights, name_outputs
from deploy.core.progress import Progress
from deploy.data.dataset import Dataset
from deploy.data.preprocess import image_preprocessing, prepare
from deploy.models.request import ModelRequest, is_checkpoint, split_key
from deploy.models.resolve import architecture, published_file
from deploy.models.weights import check_finite, digest, load_into, read_state_dict
from deploy.tasks.task import Task, as_task

HEAD = "num_classes"
"""Option of an architecture with the number of classes."""


def build_for(request: ModelRequest, data: Dataset, progress: Progress) -> Model:
    """Build a network with one output per class of the training images, or of their pixels.

    The weights of the request are ``none`` or ``auto`` (as drawn by the constructor with the seed), ``default``
    (published) or a file. The model has preprocessing, the class names as labels, and a reference that contains the
    number of classes; its parameters require gradients.

    Raises:
        UsageError: no model has this name, or it does not classify images.
        DataError: the number of outputs differs from the number of classes.
    """
    task = _task(request, data)
    names = data.pixel_classes if task == "semantic-segmentation" else data.classes
    request = _with_head(request, len(names))
    try:
        model, source, bare = architecture(request)
    except UsageError as exc:
        if HEAD in exc.message:
            raise UsageError(f"{request.name} is not a classifier: {exc.message}") from exc
        raise
    preprocessing = image_preprocessing(model)
    if len(preprocessing.mean) not in (1, 3):
        raise UsageError(f"{model.name} takes {len(preprocessing.mean)} channels; images have 1 or 3.")
    model = _with_weights(model, source, bare, request, len(names), progress)
    image = torch.from_numpy(prepare(data.images[0], preprocessing))[None]
    if task is None:
        _check_outputs(model, image, data)
    else:
        _check_task(model, image, task, len(names), data)
    if request.slug is not None:  # initial weights name no folder: later commands find a zoo model by its own name
        model = model.replace(slug=request.folder)
    return model.replace(
        preprocessing=preprocessing,
        labels=names,
        task=task or model.task,
        reference=dataclasses.replace(request, name=model.name).to_dict(),
    )


def _task(request: ModelRequest, data: Dataset) -> Task | None:
    """Return the task of a model on images with boxes or masks; None on images with labels.

    Raises:
        UsageError: the model is a classifier.
        DataError: the images lack what the task needs.
    """
    if data.truths is None:
        return None
    task = as_task(architecture(request)[0].task or ("detection" if data.classes else "semantic-segmentation"))
    if task == "classification":
        raise UsageError(f"{request.name} is a classifier, and the images of {data.name} have boxes or masks.")
    data.annotated(pixels=task == "semantic-segmentation")
    return task


def _check_task(model: Model, image: torch.Tensor, task: Task, classes: int, data: Dataset) -> None:
    """Refuse a model whose outputs are not those of its task, or which has another number of classes than the data."""
    try:
        with torch.no_grad():
            outputs = name_outputs(model.module(image))
    except RuntimeError as exc:
        raise ModelError(f"{model.name} cannot run {list(image.shape)}: {str(exc).splitlines()[0]}") from exc
    name, first = next(iter(outputs.items()))
    if task == "semantic-segmentation":
        if first.dim() != 4:
            raise UsageError(f"{model.name}: output {name!r} of shape {list(first.shape)} has no classes of pixels.")
        count = first.shape[1]
    else:
        count = outputs["scores"].shape[-1] if "scores" in outputs else classes
    if count != classes:
        raise DataError(
            f"{data.name} has {classes} classes; {model.name} has {count} outputs.",
            "pass the number of classes to the factory: -o KEY=NUMBER",
        )


def _with_head(request: ModelRequest, classes: int) -> ModelRequest:
    """Set the number of classes, unless the architecture is a factory of the user."""
    if request.name.endswith((".pt2", ".onnx")):
        raise UsageError(f"{request.name}: an exported graph cannot be trained.", "name its architecture instead")
    if is_checkpoint(request.name):
        raise UsageError(
            f"{request.name}: a checkpoint is not an architecture.", f"deploy train ARCH --weights {request.name}"
        )
    given = request.options.get(HEAD)
    if given is not None and given != str(classes):
        raise DataError(f"-o {HEAD}={given}: the data has {classes} classes.", "leave the option out")
    if ":" in request.name:  # the options of a factory are not known; `_check_outputs` checks its head
        return request
    return dataclasses.replace(request, options={**request.options, HEAD: str(classes)})


def _with_weights(
    model: Model, source: ModuleType | None, bare: str, request: ModelRequest, classes: int, progress: Progress
) -> Model:
    """Load the initial weights; a head for another number of classes keeps those of the constructor."""
    if request.weights in ("none", "auto"):
        return model.replace(weights=Weights(source="fresh weights", trained=False, seed=request.seed))
    if request.weights == "default":
        published, label = published_file(model, source, bare)
        file = str(published)
    else:
        file = request.weights
        label = Path(file).name
    state, notes = read_state_dict(file, model.module)
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
        notes.append(f"{label} has another number of classes: {', '.join(head)} are initialized randomly")
    for note in notes:
        progress.note(note)
    load_into(model.module, state, file)
    check_finite(model.module, file)
    weights = Weights(source=label, trained=True, sha256=digest(split_key(file)[0]), seed=request.seed)
    return model.replace(weights=weights)


def _check_outputs(model: Model, image: torch.Tensor, data: Dataset) -> None:
    try:
        with torch.no_grad():
            outputs = name_outputs(model.module(image))
    except RuntimeError as exc:
        raise ModelError(
            f"{model.name} cannot run an image of shape {list(image.shape)}: {str(exc).splitlines()[0]}"
        ) from exc
    name, logits = next(iter(outputs.items()))
    if logits.dim() != 2:
        raise UsageError(f"{model.name} is not a classifier: output {name!r} has shape {list(logits.shape)}.")
    if logits.shape[1] != len(data.classes):
        raise DataError(
            f"{data.name} has {len(data.classes)} classes; {model.name} has {logits.shape[1]} outputs.",
            "pass the number of classes to the factory: -o KEY=NUMBER",
        )
