"""Run a detector or a network for the classes of pixels over a data set, and score what it finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import BackendError, DataError
from deploy.core.extras import require
from deploy.core.model import Preprocessing
from deploy.core.tensors import TensorSpec
from deploy.data.dataset import Dataset, Image
from deploy.data.outlines import Outline
from deploy.data.placement import Placement, prepare_pixels
from deploy.data.preprocess import prepare
from deploy.data.truth import IGNORED, Truth, Truths
from deploy.evaluation.average_precision import average_precision
from deploy.evaluation.overlap import confusion, mean_overlap
from deploy.evaluation.score import RESAMPLES, Score
from deploy.tasks.detections import THRESHOLD, Detections, postprocessing_of, read_detections
from deploy.tasks.postprocessing import Postprocessing
from deploy.tasks.task import Task, task_of

Outputs = Mapping[str, NDArray[Any]]
"""Outputs of a run by name."""
Run = Callable[[NDArray[Any]], Outputs]
"""From images (N, C, H, W), or one picture (1, H, W, 3) of bytes, to outputs by name."""
Advance = Callable[[int, int], None]
"""Receives the number of images done and their total."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """How outputs are read and classes are matched.

    Attributes:
        name: of the model, for messages.
        task: which of the tasks with pictures.
        preprocessing: None: the model takes the pictures as they are, uint8 [1, height, width, 3].
        labels: class names of the model; empty if they are not known.
        postprocessing: of a detector.
    """

    name: str
    task: Task
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] = ()
    postprocessing: Postprocessing | None = None


@dataclass(frozen=True, slots=True)
class RunOutputs:
    """Outputs for some images of a data set.

    Attributes:
        images: positions of the images in the data set.
        size: height and width of what the model was fed, in pixels.
        outputs: of the run.
    """

    images: range
    size: tuple[int, int]
    outputs: Outputs


def judged_by(
    outputs: Outputs,
    inputs: Sequence[TensorSpec],
    *,
    name: str,
    data: str,
    task: str | None,
    declared: Postprocessing | None,
    labels: tuple[str, ...],
    preprocessing: Preprocessing | None,
) -> Judged:
    """Return how the outputs of a model are judged by boxes or masks.

    Args:
        outputs: of one run.
        inputs: of the model.
        name: of the model, for messages.
        data: name of the data set, for messages.
        task: that is declared; None: the one that the outputs show.
        declared: how the outputs of a detector are read; None, or the form ``auto``: as their names show.
        labels: class names of the model.
        preprocessing: see `Judged`.

    Raises:
        DataError: the outputs are those of a classifier, or do not show what they are.
    """
    shown = shapes_of(outputs)
    found = task_of(task, inputs, shown)
    if found is None or found == "classification":
        raise DataError(
            f"{data} has boxes or masks, and the outputs of {name} are those of a classifier or unknown: "
            f"{', '.join(map(str, shown))}.",
            "a raw detector: --task detection --postprocess yolo|fcos|detr",
        )
    form = _form(outputs, declared)
    return Judged(name=name, task=found, preprocessing=preprocessing, labels=labels, postprocessing=form)


def shapes_of(outputs: Outputs) -> list[TensorSpec]:
    """Return names, types and shapes of outputs."""
    return [TensorSpec(name=name, dtype=str(value.dtype), shape=value.shape) for name, value in outputs.items()]


def _form(outputs: Outputs, declared: Postprocessing | None) -> Postprocessing | None:
    """Return how outputs are read: as detections if they are, else as declared, else as their names show."""
    shown = postprocessing_of(outputs)
    if declared is None or (shown is not None and shown.kind == "none"):
        return shown
    if declared.kind == "auto":
        return None if shown is None else dataclasses.replace(declared, kind=shown.kind)
    return declared


def score_pictures(
    run: Run, dataset: Dataset, judged: Judged, batch_size: int, advance: Advance, most: int = RESAMPLES
) -> tuple[Score, str]:
    """Run every image, with one batch in memory at a time, and return the score; see `score_outputs`.

    Args:
        run: the model.
        dataset: images with boxes or masks.
        judged: how the outputs are read.
        batch_size: images per run.
        advance: called after every batch.
        most: number of resamples for the intervals.
    """

    def ran() -> Iterator[RunOutputs]:
        for indices, images in _batches(dataset, judged, batch_size):
            yield RunOutputs(indices, _size(images, judged), run(images))
            advance(indices.stop, len(dataset))

    return score_outputs(ran(), dataset, judged, most)


def score_outputs(
    batches: Iterable[RunOutputs], dataset: Dataset, judged: Judged, most: int = RESAMPLES
) -> tuple[Score, str]:
    """Return the score of outputs by the boxes or masks of the images.

    Args:
        batches: outputs for images of the data set, each image at most once.
        dataset: images with boxes or masks.
        judged: how the outputs are read.
        most: number of resamples for the intervals.

    Returns:
        The score, and how classes were matched: ``name``, ``index`` or ``position``.

    Raises:
        DataError: the images have no boxes or masks, or the classes do not fit the model.
        BackendError: the outputs are not those of the task.
        MissingPackageError: the package that scores boxes is not installed.
    """
    score = _score_pixels if judged.task == "semantic-segmentation" else _score_boxes
    return score(batches, dataset, judged, most)


def class_indices(
    classes: Sequence[str], outputs: int | None, names: tuple[str, ...], data: str, model: str
) -> tuple[NDArray[np.int64], str]:
    """Return the index in the model of every class of the data, and how they were matched.

    By ``name`` if the model knows all of them; by ``index`` if they are numbers; else by ``position`` if there are as
    many as the model has.

    Raises:
        DataError: they cannot be matched.
    """
    count = len(names) if outputs is None else outputs
    if set(classes) <= set(names) and len(names) == count:
        return np.asarray([names.index(name) for name in classes], np.int64), "name"
    if all(name.isdecimal() for name in classes) and (not count or max(map(int, classes), default=0) < count):
        return np.asarray([int(name) for name in classes], np.int64), "index"
    if len(classes) == count:
        return np.arange(count), "position"
    raise DataError(
        f"{data} has {len(classes)} classes, and {model} has {count or 'an unknown number'}.",
        "name the classes of the model as those of the data: --labels FILE; or train it: "
        f"deploy train {model} --data DATA",
    )


def takes_pictures(inputs: Sequence[TensorSpec]) -> bool:
    """Return whether a model takes pictures of any size as bytes, (N, H, W, 3)."""
    return len(inputs) == 1 and inputs[0].dtype == "uint8" and inputs[0].shape[3:] == (3,)


def picture_preprocessing(inputs: Sequence[TensorSpec]) -> Preprocessing | None:
    """Return the preprocessing of a model that normalizes by itself; None if its input does not say so.

    Such a model takes pictures as bytes, or one picture of values in 0..1 and a fixed size, as torchvision's detectors
    do.
    """
    if takes_pictures(inputs):
        return Preprocessing(crop=(1, 1), mean=(0.0,) * 3, std=(1.0,) * 3)  # not used: the pictures stay as they are
    size = inputs[0].shape[-2:] if len(inputs) == 1 and inputs[0].bounds == (0, 1) else ()
    if len(size) != 2 or inputs[0].shape[-3] != 3:
        return None
    height, width = size
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    return Preprocessing(crop=(height, width), mean=(0.0,) * 3, std=(1.0,) * 3)


def feed(image: Image, preprocessing: Preprocessing | None) -> NDArray[Any]:
    """Return what a model is fed for a picture, a batch of one; see `Judged.preprocessing`."""
    if preprocessing is not None:
        return prepare(image, preprocessing)[None]
    if image.dtype != np.uint8:
        image = (image * 255).round().astype(np.uint8)
    return np.repeat(image, 3, axis=2)[None] if image.shape[2] == 1 else image[None]


def _batches(dataset: Dataset, judged: Judged, batch_size: int) -> Iterator[tuple[range, NDArray[Any]]]:
    step = 1 if judged.preprocessing is None else batch_size
    for start in range(0, len(dataset), step):
        indices = range(start, min(start + step, len(dataset)))
        yield indices, np.concatenate([feed(dataset.images[index], judged.preprocessing) for index in indices])


def _score_boxes(batches: Iterable[RunOutputs], dataset: Dataset, judged: Judged, most: int) -> tuple[Score, str]:
    require("detection")
    truths = dataset.annotated()
    postprocessing = judged.postprocessing
    if postprocessing is None:
        raise BackendError(f"{judged.name}: the outputs do not show what they are.")
    by_masks = judged.task == "instance-segmentation" and _has_masks(truths, dataset.name)
    found: list[Detections] = []
    masks: list[tuple[Outline, ...]] = []
    shown: list[Truth] = []
    outputs_count: int | None = None
    not_finite = 0
    for batch in batches:
        bad = _not_finite(batch.outputs, len(batch.images))
        not_finite += int(bad.sum())
        detections = read_detections(batch.outputs, postprocessing, batch.size, len(judged.labels) or None)
        outputs_count = _classes_of(batch.outputs, postprocessing, judged)
        for position, item, unusable in zip(batch.images, detections, bad, strict=True):
            shown.append(truths[position])
            keep = slice(0, 0) if unusable else slice(None)
            place = Placement.of(shown[-1].size, judged.preprocessing) if judged.preprocessing else None
            boxes = place.into_picture(item.boxes[keep]) if place else item.boxes[keep]
            found.append(Detections(boxes=boxes, scores=item.scores[keep], labels=item.labels[keep]))
            if by_masks:
                masks.append(tuple(_outline(mask, place) for mask in _masks_of(item, judged.name)[keep]))
    names, count = judged.labels, outputs_count
    index, matched = class_indices(dataset.classes, count, names, dataset.name, judged.name)
    total = max(len(names), count or 0, int(index.max(initial=-1)) + 1)
    classes = names if len(names) == total else tuple(map(str, range(total)))
    if matched != "name":
        classes = tuple(_renamed(classes, index, dataset.classes))
    moved = [dataclasses.replace(item, labels=index[item.labels]) for item in shown]
    return average_precision(found, moved, classes, not_finite, most, masks if by_masks else None), matched


def _has_masks(truths: Truths, data: str) -> bool:
    """Return whether the data has a mask of every object; False if it has none at all.

    Raises:
        DataError: some objects have masks, and others do not.
    """
    every = [truths[index] for index in range(len(truths))]
    without = [item for item in every if item.masks is None]
    if len(without) == len(every) and not any(item.unmasked for item in every):
        return False
    if without:
        reason = next((item.unmasked for item in without if item.unmasked), "the others have boxes alone")
        raise DataError(
            f"{data}: {len(every) - len(without)} of {len(every)} images have masks of all objects: {reason}.",
            "add the masks. Boxes alone are scored where no object has a mask, and by deploy evaluate --task detection",
        )
    return any(len(item.labels) for item in every)


def _masks_of(found: Detections, model: str) -> NDArray[np.float32]:
    if found.masks is None:
        raise BackendError(f"{model}: the outputs have no masks.", "to score its boxes: --task detection")
    return found.masks


def _outline(mask: NDArray[np.float32], place: Placement | None) -> Outline:
    """Return a mask of the input in the size of the picture, as run lengths in COCO's compressed text."""
    from faster_coco_eval.core.mask import encode

    inside = (place.mask_in_picture(mask) if place else mask) > THRESHOLD
    outline: Outline = encode(np.asfortranarray(inside, np.uint8))
    return outline


def _size(images: NDArray[Any], judged: Judged) -> tuple[int, int]:
    """Return the height and width of what the model is fed."""
    first = 1 if judged.preprocessing is None else 2
    return images.shape[first], images.shape[first + 1]


def _renamed(classes: Sequence[str], index: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Return class names in which those of the data replace the ones they were matched with."""
    renamed = list(classes)
    for position, name in zip(index, names, strict=True):
        renamed[position] = name
    return renamed


def _classes_of(outputs: Outputs, postprocessing: Postprocessing, judged: Judged) -> int | None:
    """Return the number of classes of a detector, None if its outputs do not show it."""
    if postprocessing.kind == "fcos":
        return int(outputs["scores"].shape[-1])
    if postprocessing.kind == "detr":
        count = int(outputs["logits"].shape[-1])
        return count - 1 if len(judged.labels) == count - 1 else count
    if postprocessing.kind == "yolo":
        (raw,) = (value for value in outputs.values() if value.ndim == 3)
        return int(raw.shape[1] - 4 if raw.shape[1] < raw.shape[2] else raw.shape[2] - 5)
    return None


def _not_finite(outputs: Outputs, count: int) -> NDArray[np.bool_]:
    """Return which images of a batch have an output that is not finite; outputs of one image need no batch."""
    bad = np.zeros(count, bool)
    for value in outputs.values():
        if np.issubdtype(value.dtype, np.floating):
            finite = np.isfinite(value)
            bad |= ~(finite.reshape(count, -1).all(axis=1) if count > 1 else finite.all())
    return bad


def _score_pixels(batches: Iterable[RunOutputs], dataset: Dataset, judged: Judged, most: int) -> tuple[Score, str]:
    """Score the classes of pixels in the size of the model's input, where the masks are resized without mixing."""
    truths = dataset.annotated(pixels=True)
    matrices: list[NDArray[np.int64]] = []
    not_finite, count, matched = 0, 0, ""
    index = np.zeros(0, np.int64)
    for batch in batches:
        logits = class_logits(batch.outputs, judged.name)
        if not matched:
            count = logits.shape[1]
            index, matched = class_indices(dataset.pixel_classes, count, judged.labels, dataset.name, judged.name)
        bad = ~np.isfinite(logits).reshape(len(batch.images), -1).all(axis=1)
        not_finite += int(bad.sum())
        predicted = np.where(bad[:, None, None], -1, classes_of_pixels(logits, batch.size))
        values = np.full(IGNORED + 1, IGNORED, np.uint8)
        values[: len(index)] = index
        for position, guess in zip(batch.images, predicted, strict=True):
            pixels = truths[position].pixels
            if pixels is None:
                raise DataError(f"{dataset.name}: image {position} has no mask.")
            if judged.preprocessing is not None:
                pixels = prepare_pixels(pixels, judged.preprocessing)
            matrices.append(confusion(guess, values[pixels], count))
    names = judged.labels if len(judged.labels) == count else tuple(map(str, range(count)))
    if matched != "name":
        names = tuple(_renamed(names, index, dataset.pixel_classes))
    return mean_overlap(matrices, names, not_finite, most), matched


def class_logits(outputs: Outputs, model: str) -> NDArray[Any]:
    """Return the first output with four dimensions [n, classes, h, w].

    Raises:
        BackendError: there is none.
    """
    found = next((value for value in outputs.values() if value.ndim == 4), None)
    if found is None:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
        raise BackendError(f"{model}: no output has the form [images, classes, height, width]: {shapes}.")
    return found


def classes_of_pixels(logits: NDArray[Any], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the class of every pixel [n, h, w]; logits of another size are resized to ``size`` first, bilinearly."""
    if logits.shape[2:] != size:
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(logits, np.float32))
        logits = torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False).numpy()
    return np.asarray(logits.argmax(axis=1), np.int64)
