"""What a network is trained for: the loss of a batch, and the score of the held-out images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from deploy.core.errors import UsageError
from deploy.core.extras import require
from deploy.core.model import Model
from deploy.data.dataset import Dataset
from deploy.data.placement import Placement, prepare_pixels
from deploy.data.preprocess import image_preprocessing
from deploy.data.truth import IGNORED
from deploy.evaluation.accuracy import Accuracy
from deploy.evaluation.pictures import Judged, score_pictures
from deploy.evaluation.predictions import predict
from deploy.evaluation.score import Score
from deploy.tasks.detections import postprocessing_of
from deploy.tasks.task import Task, as_task
from deploy.training.augment import small_moves, small_turns, warp, warp_boxes

AUXILIARY_WEIGHT = 0.3
"""Weight of the loss of auxiliary heads (Szegedy et al., Going Deeper with Convolutions, 2015, section 5)."""
RESAMPLES = 100
"""Resamples for the intervals of an epoch."""

Loss = tuple[torch.Tensor, float | None]
"""The loss of a batch, and how many of its images are predicted correctly, for a classifier."""


class Objective(Protocol):
    """What a network is trained for.

    Attributes:
        metric: name of the score in the training curve.
        title: name of the score in messages.
    """

    metric: str
    title: str

    def loss(self, images: torch.Tensor, part: Dataset, *, augment: bool) -> Loss:
        """Return the loss of prepared images (N, C, H, W), the images of ``part``."""
        ...

    def evaluate(self, held_out: Dataset, batch_size: int) -> tuple[Accuracy | Score, float]:
        """Return the score of the held-out images and their mean loss."""
        ...


def objective_of(model: Model, data: Dataset) -> Objective:
    """Return the objective of a model for some data.

    Raises:
        UsageError: the data has boxes, and the model has no training loss.
    """
    if data.truths is None:
        return Classification(model)
    task = as_task(model.task or "classification")
    if task == "semantic-segmentation":
        return Segmentation(model)
    if not callable(getattr(model.module, "loss", None)):
        raise UsageError(
            f"{model.name}: has no training loss for boxes.", "a detector trains with a method loss(x, boxes, labels)"
        )
    return Detection(model)


def named_outputs(model: Model, images: torch.Tensor) -> dict[str, Any]:
    """Run a network and return its outputs; the first one is named ``main``."""
    named = model.call({model.inputs[0].name: images})
    first = next(iter(named))
    return {"main": named.pop(first), **named}


def _cross_entropy(outputs: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    loss = F.cross_entropy(outputs["main"], expected, ignore_index=IGNORED)
    for name, value in outputs.items():
        if name.startswith("aux"):
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(value, expected, ignore_index=IGNORED)
    return loss


class Classification:
    """One class for every image."""

    metric = "top1"
    title = "accuracy"

    def __init__(self, model: Model) -> None:
        self.model = model

    def loss(self, images: torch.Tensor, part: Dataset, *, augment: bool) -> Loss:
        """Return the cross-entropy, and the number of correct predictions."""
        labels = torch.from_numpy(part.labeled())
        outputs = named_outputs(self.model, warp(images, small_turns(len(images))) if augment else images)
        loss = F.cross_entropy(outputs["main"], labels)
        for name, value in outputs.items():
            if name.startswith("aux"):
                loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(value, labels)
        return loss, int((outputs["main"].detach().argmax(1) == labels).sum())

    def evaluate(self, held_out: Dataset, batch_size: int) -> tuple[Accuracy, float]:
        """Return the accuracy and the mean cross-entropy."""
        labels = held_out.labeled()
        losses: list[NDArray[np.float64]] = []

        def classify(images: NDArray[np.float32]) -> NDArray[Any]:
            logits = named_outputs(self.model, torch.from_numpy(images))["main"].double()
            done = sum(map(len, losses))
            expected = torch.from_numpy(labels[done : done + len(images)])
            losses.append(F.cross_entropy(logits, expected, reduction="none").numpy())
            return np.asarray(logits.numpy())

        preprocessing = image_preprocessing(self.model)
        predictions = predict(classify, held_out, labels, preprocessing, batch_size, lambda done, total: None)
        return Accuracy.of(predictions), float(np.concatenate(losses).mean())


class _Pictures(ABC):
    """What detectors and networks for the classes of pixels have in common."""

    metric: str
    title: str
    task: Task

    def __init__(self, model: Model) -> None:
        self.model = model
        self.preprocessing = image_preprocessing(model)

    @abstractmethod
    def loss(self, images: torch.Tensor, part: Dataset, *, augment: bool) -> Loss:
        """Return the loss of prepared images (N, C, H, W), the images of ``part``."""

    def evaluate(self, held_out: Dataset, batch_size: int) -> tuple[Score, float]:
        """Return the score and the mean loss."""
        losses: list[float] = []

        def run(images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
            tensor = torch.from_numpy(images)
            done = sum(1 for _ in losses) * batch_size
            part = held_out.take(np.arange(done, done + len(images)))
            losses.append(float(self.loss(tensor, part, augment=False)[0]))
            named = self.model.call({self.model.inputs[0].name: tensor})
            return {name: value.numpy() for name, value in named.items()}

        first = torch.zeros(1, len(self.preprocessing.mean), *self.preprocessing.crop)
        names = self.model.call({self.model.inputs[0].name: first})
        judged = Judged(
            name=self.model.name,
            task=self.task,
            preprocessing=self.preprocessing,
            labels=self.model.labels,
            postprocessing=postprocessing_of(names),
        )
        score, _ = score_pictures(run, held_out, judged, batch_size, lambda done, total: None, RESAMPLES)
        return score, float(np.mean(losses))


class Detection(_Pictures):
    """Boxes; the network has a method ``loss(x, boxes, labels)``."""

    metric = "map"
    title = "mAP"
    task: Task = "detection"

    def __init__(self, model: Model) -> None:
        require("detection")  # it is needed after the first epoch
        super().__init__(model)

    def loss(self, images: torch.Tensor, part: Dataset, *, augment: bool) -> Loss:
        """Return the loss of the network; boxes around groups are left out."""
        truths = part.annotated()
        moves = small_moves(len(images)) if augment else None
        boxes, labels = [], []
        for index in range(len(images)):
            truth = truths[index]
            place = Placement.of(truth.size, self.preprocessing)
            own = torch.from_numpy(place.into_input(truth.boxes[~truth.crowd]))
            classes = torch.from_numpy(truth.labels[~truth.crowd])
            if moves is not None:
                own, classes = warp_boxes(own, classes, moves[index], self.preprocessing.crop)
            boxes.append(own)
            labels.append(classes)
        module: Any = self.model.module
        return module.loss(images if moves is None else warp(images, moves), boxes, labels), None


class Segmentation(_Pictures):
    """One class for every pixel."""

    metric = "miou"
    title = "mIoU"
    task: Task = "semantic-segmentation"

    def loss(self, images: torch.Tensor, part: Dataset, *, augment: bool) -> Loss:
        """Return the cross-entropy of all pixels."""
        truths = part.annotated(pixels=True)
        pixels = np.stack(
            [prepare_pixels(_pixels(truths[index].pixels), self.preprocessing) for index in range(len(images))]
        )
        expected = torch.from_numpy(pixels)
        if augment:
            moves = small_moves(len(images))
            images = warp(images, moves)
            expected = warp(expected[:, None].float(), moves, "nearest")[:, 0]
        return _cross_entropy(named_outputs(self.model, images), expected.long()), None


def _pixels(pixels: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    assert pixels is not None  # a data set with classes of pixels has them for every image
    return pixels
