"""Predictions of a runner for labeled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import BackendError, DataError
from deploy.core.model import Preprocessing
from deploy.data.dataset import Dataset
from deploy.data.preprocess import batches

IMAGENET_CLASSES = 1000

Classify = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From images (N, C, H, W) to logits (N, classes)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What one runner predicts for each image.

    Attributes:
        predicted: class with the largest logit, the first of equal ones, int64; -1 if a logit is not finite.
        rank: number of classes before the correct one, int64; 0 if the prediction is correct. The number of classes
            if a logit is not finite.
        confidence: softmax probability of the predicted class, float64; NaN if a logit is not finite.
    """

    predicted: NDArray[np.int64]
    rank: NDArray[np.int64]
    confidence: NDArray[np.float64]
    classes: int

    @classmethod
    def from_logits(cls, logits: NDArray[Any], labels: NDArray[np.int64]) -> Predictions:
        """Return the predictions of one batch: logits (N, classes) of any float dtype, labels (N,) of int64."""
        if logits.ndim != 2 or len(logits) != len(labels):
            raise BackendError(
                f"output of shape {list(logits.shape)}: expected one row of logits for each of {len(labels)} images."
            )
        count = logits.shape[1]
        finite = np.isfinite(logits).all(axis=1)
        values = np.where(finite[:, None], logits, 0).astype(np.float64)
        correct = np.take_along_axis(values, labels[:, None], axis=1)
        before = np.arange(count) < labels[:, None]
        rank = (values > correct).sum(axis=1) + ((values == correct) & before).sum(axis=1)
        confidence = 1 / np.exp(values - values.max(axis=1, keepdims=True)).sum(axis=1)
        return cls(
            predicted=np.where(finite, values.argmax(axis=1), -1),
            rank=np.where(finite, rank, count),
            confidence=np.where(finite, confidence, np.nan),
            classes=count,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """Return the predictions of several batches, in order."""
        return cls(
            predicted=np.concatenate([part.predicted for part in parts]),
            rank=np.concatenate([part.rank for part in parts]),
            confidence=np.concatenate([part.confidence for part in parts]),
            classes=parts[0].classes,
        )

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is correct."""
        correct: NDArray[np.bool_] = self.rank == 0
        return correct


def labels_for(dataset: Dataset, outputs: int, names: tuple[str, ...], model: str) -> tuple[NDArray[np.int64], str]:
    """Return labels as indices of the model's outputs, and how they were matched: ``name``, ``index`` or ``position``.

    Classes are matched by name if the model, or ImageNet for a model with 1000 outputs, knows all of them, which may be
    a part of the model's; used as they are if they are indices, in an array file or as names of folders; else matched
    by position, if there are as many classes as outputs.

    Raises:
        DataError: the images have no labels, or the labels cannot be matched.
    """
    labels = dataset.labeled()
    if not dataset.indexed:
        for known in _known_names(outputs, names):
            if set(dataset.classes) <= set(known):
                index = np.asarray([known.index(name) for name in dataset.classes], dtype=np.int64)
                return index[labels], "name"
        if all(name.isdecimal() and int(name) < outputs for name in dataset.classes):
            return np.asarray([int(name) for name in dataset.classes], dtype=np.int64)[labels], "index"
    if dataset.indexed and len(dataset.classes) <= outputs:
        return labels, "index"
    if not dataset.indexed and len(dataset.classes) == outputs:
        return labels, "position"
    raise DataError(
        f"{dataset.name} has {len(dataset.classes)} classes, and {model} has {outputs} outputs.",
        "name the classes of the model, --labels FILE, or the folders after the indices of its outputs; or fine-tune "
        f"the model on this data: deploy train {model} --data DATA",
    )


def _known_names(outputs: int, names: tuple[str, ...]) -> Iterator[Sequence[str]]:
    """Yield the class names of the model, and those of ImageNet for a model of unknown classes with as many outputs."""
    if len(names) == outputs:
        yield names
    elif outputs == IMAGENET_CLASSES:
        from torchvision.models import ResNet18_Weights  # PyTorch, which an evaluation has imported

        categories: list[str] = ResNet18_Weights.DEFAULT.meta["categories"]
        yield categories
        yield [name.replace(" ", "_") for name in categories]


def predict(
    classify: Classify,
    dataset: Dataset,
    labels: NDArray[np.int64],
    preprocessing: Preprocessing,
    batch_size: int,
    advance: Callable[[int, int], None],
) -> Predictions:
    """Run every image through ``classify``, with one batch in memory at a time.

    ``labels`` are those of `labels_for`. ``advance`` is called after every batch with the number of images done and
    their total.
    """
    parts, done = [], 0
    for images, _ in batches(dataset, preprocessing, batch_size):
        logits = classify(images)
        if logits.ndim == 2 and logits.shape[1] <= labels.max():
            raise DataError(f"label {labels.max()} exceeds the model's {logits.shape[1]} outputs.")
        parts.append(Predictions.from_logits(logits, labels[done : done + len(images)]))
        done += len(images)
        advance(done, len(dataset))
    return Predictions.concatenate(parts)
