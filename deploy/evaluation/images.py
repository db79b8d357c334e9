"""Shared by training and evaluation: labels for the outputs of a model, and its answers to images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError
from deploy.core.model import Preprocessing, Weights
from deploy.data.dataset import Dataset
from deploy.data.preprocess import batches
from deploy.evaluation.accuracy import Answers

Classify = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From images (N, C, H, W) to logits (N, classes)."""

_DIGEST = 12


def labels_for(dataset: Dataset, outputs: int, names: tuple[str, ...], model: str) -> tuple[NDArray[np.int64], str]:
    """The data's labels as indices of a model's outputs, and how the two were matched.

    By name, where the model knows all the data's classes; as they are, where they are indices; else by position,
    where there are as many classes as outputs.

    Args:
        dataset: labeled images.
        outputs: classes that the model tells apart.
        names: of them, or empty where they are not known.
        model: its name.

    Raises:
        DataError: no labels, or they cannot be matched.
    """
    labels = dataset.labeled()
    if len(names) == outputs and not dataset.indexed and set(dataset.classes) <= set(names):
        index = np.asarray([names.index(name) for name in dataset.classes], dtype=np.int64)
        return index[labels], "name"
    if dataset.indexed and len(dataset.classes) <= outputs:
        return labels, "index"
    if not dataset.indexed and len(dataset.classes) == outputs:
        return labels, "position"
    raise DataError(
        f"{dataset.name} has {len(dataset.classes)} classes, and {model} tells {outputs} apart.",
        f"train or fine-tune it on them: deploy train {model} --data DATA",
    )


def answers_of(
    classify: Classify,
    dataset: Dataset,
    labels: NDArray[np.int64],
    preprocessing: Preprocessing,
    batch_size: int,
    advance: Callable[[int, int], None],
) -> Answers:
    """Run every image through ``classify``; one batch is in memory at a time.

    Raises:
        DataError: an image cannot be used.
        BackendError: the runner failed, or what it returns are not logits.
    """
    parts, done = [], 0
    for images, _ in batches(dataset, preprocessing, batch_size):
        logits = classify(images)
        _check_width(logits, labels)
        parts.append(Answers.judge(logits, labels[done : done + len(images)]))
        done += len(images)
        advance(done, len(dataset))
    return Answers.join(parts)


def _check_width(logits: NDArray[Any], labels: NDArray[np.int64]) -> None:
    if logits.ndim == 2 and logits.shape[1] <= labels.max():
        raise DataError(f"label {labels.max()} has no output among the model's {logits.shape[1]}.")


def trained_on(dataset: Dataset, epochs: int) -> str:
    """Where trained weights came from, in words that `seen_in_training` understands."""
    return f"trained on {dataset.name} ({len(dataset)} images of {dataset.digest[:_DIGEST]}), {epochs} epochs"


def seen_in_training(weights: Weights, dataset: Dataset) -> str:
    """Whether `deploy train` made the weights from the collection ``dataset``: ``all``, ``part`` or ``none`` of it."""
    if f"of {dataset.digest[:_DIGEST]})" not in weights.source:
        return "none"
    return "all" if f"({len(dataset)} images of" in weights.source else "part"
