"""The training loop: one epoch of training, and the evaluation on the held-out images.

Every random draw is a function of the seed and the epoch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from deploy.core.errors import ModelError, UsageError, WeightsError
from deploy.core.model import Model
from deploy.data.dataset import Dataset
from deploy.data.preprocess import batches, image_preprocessing
from deploy.evaluation.predictions import Predictions, predict
from deploy.models.weights import check_finite

LEARNING_RATES = {"sgd": 0.05, "adamw": 0.003}
"""Default learning rate of each optimizer."""

WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.05}
"""Weight decay of matrices and kernels; biases and scales have none."""

SCHEDULES = ("one-cycle", "cosine")
AUGMENTATIONS = ("light", "none")
MOMENTUM = 0.9
WARM_UP = 0.25
"""Share of the steps with a rising learning rate in the schedule ``one-cycle``."""
AUXILIARY_WEIGHT = 0.3
"""Weight of the loss of auxiliary heads (Szegedy et al., Going Deeper with Convolutions, 2015, section 5)."""

SINGLE_THREAD_PARAMETERS = 100_000
"""Networks with fewer parameters are trained with one thread."""

MAX_ROTATION, MAX_SCALE, MAX_SHIFT = 0.15, 0.1, 0.05
"""Augmentation: rotation in radians, relative change of size, and shift as a share of the side."""


class DivergedError(Exception):
    """The loss or a weight is not finite."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters of a training.

    Attributes:
        batch_size: images per step; an incomplete last batch is dropped (each epoch shuffles anew).
        optimizer: ``sgd`` (Nesterov momentum 0.9) or ``adamw``.
        schedule: ``one-cycle`` (linear warm-up over a quarter, then cosine to 0) or ``cosine``.
        augment: ``light`` (small random rotations, changes of size and shifts) or ``none``.
        seed: of shuffling, augmentation and dropout.
    """

    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    schedule: str
    augment: str
    seed: int

    def __post_init__(self) -> None:
        for name, known in (("optimizer", LEARNING_RATES), ("schedule", SCHEDULES), ("augment", AUGMENTATIONS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}.")
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError("epochs and batch size must be at least 1.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"learning rate {self.lr} is not a positive number.")


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Return the learning rate at a step of ``total`` steps; it is the whole state of the schedule."""
    warm_up = WARM_UP * total if recipe.schedule == "one-cycle" else 0.0
    if step < warm_up:
        return recipe.lr * (step + 1) / (warm_up + 1)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up)))


@contextmanager
def deterministic(module: torch.nn.Module) -> Iterator[None]:
    """Use deterministic algorithms, and one thread for a small network; restore all settings and the generator.

    In a small network, threads mostly wait for each other: LeNet is not faster with two, and six times slower when
    another program uses the second core. With one thread, the result is also the same on machines with different
    numbers of cores.
    """
    threads = torch.get_num_threads()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    if sum(value.numel() for value in module.parameters()) < SINGLE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class Trainer:
    """Trains a network in place."""

    def __init__(self, model: Model, data: Dataset, recipe: Recipe) -> None:
        self.model, self.data, self.recipe = model, data, recipe
        self.preprocessing = image_preprocessing(model)
        self.steps = max(1, len(data) // recipe.batch_size)
        self.optimizer = _optimizer(model.module, recipe)

    def train(self, epoch: int, advance: Callable[[int, float, float], None]) -> dict[str, float]:
        """Train for one epoch.

        Args:
            epoch: counted from 0; with the seed, it determines the order and the augmentation of the images.
            advance: receives the number of steps done, and the mean loss and top-1 accuracy so far.

        Returns:
            ``learning_rate`` of the last step, ``train_loss`` and ``train_top1``.

        Raises:
            DivergedError: the loss or a weight is not finite.
        """
        digest = hashlib.sha256(f"{self.recipe.seed} {epoch}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "big"))
        order = torch.randperm(len(self.data)).numpy()[: self.steps * self.recipe.batch_size]
        self.model.module.train()
        total_loss, correct, seen, rate = 0.0, 0, 0, 0.0
        shuffled = batches(self.data.take(order), self.preprocessing, self.recipe.batch_size)
        for step, (images, labels) in enumerate(shuffled):
            rate = learning_rate(self.recipe, epoch * self.steps + step, self.recipe.epochs * self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, hits = self._step(torch.from_numpy(images), torch.from_numpy(labels))
            total_loss, correct, seen = total_loss + loss * len(images), correct + hits, seen + len(images)
            advance(step + 1, total_loss / seen, correct / seen)
        try:
            check_finite(self.model.module, self.model.name)
        except WeightsError as exc:
            raise DivergedError(exc.message) from exc
        return {"learning_rate": rate, "train_loss": total_loss / seen, "train_top1": correct / seen}

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
        """Take one step; return the loss and the number of correct predictions."""
        if self.recipe.augment == "light":
            images = _augment(images)
        try:
            outputs = self._outputs(images)
            loss = F.cross_entropy(outputs["main"], labels)
            for name, value in outputs.items():
                if name.startswith("aux"):
                    loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(value, labels)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DivergedError(f"the loss is {value}")
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"{self.model.name} cannot be trained: {str(exc).splitlines()[0]}") from exc
        return value, int((outputs["main"].detach().argmax(1) == labels).sum())

    def _outputs(self, images: torch.Tensor) -> dict[str, Any]:
        named = self.model.call({self.model.inputs[0].name: images})
        first = next(iter(named))
        return {"main": named.pop(first), **named}

    def evaluate(self, held_out: Dataset) -> tuple[Predictions, float]:
        """Return the predictions for the held-out images, and the mean loss.

        Raises:
            DivergedError: the loss is not finite.
        """
        self.model.module.eval()
        labels = held_out.labeled()
        losses: list[NDArray[np.float64]] = []

        def classify(images: NDArray[np.float32]) -> NDArray[Any]:
            with torch.no_grad():
                logits = self._outputs(torch.from_numpy(images))["main"].double()
            done = sum(map(len, losses))
            expected = torch.from_numpy(labels[done : done + len(images)])
            losses.append(F.cross_entropy(logits, expected, reduction="none").numpy())
            return np.asarray(logits.numpy())

        predictions = predict(
            classify, held_out, labels, self.preprocessing, self.recipe.batch_size, lambda done, total: None
        )
        loss = float(np.concatenate(losses).mean())
        if not math.isfinite(loss):
            raise DivergedError(f"the held-out loss is {loss}")
        return predictions, loss


def _optimizer(module: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trainable = [value for value in module.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in trainable if value.dim() > 1], "weight_decay": WEIGHT_DECAY[recipe.optimizer]},
        {"params": [value for value in trainable if value.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ModelError("the network has no trainable parameters.")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=MOMENTUM, nesterov=True)


def _augment(images: torch.Tensor) -> torch.Tensor:
    """Rotate, resize and shift each image a little; the border is repeated beyond the edges."""

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(len(images)) * 2 - 1) * limit

    angle, size = uniform(MAX_ROTATION), 1 + uniform(MAX_SCALE)
    cosine, sine = size * angle.cos(), size * angle.sin()
    # affine_grid counts in half sides
    rows = (cosine, -sine, uniform(2 * MAX_SHIFT), sine, cosine, uniform(2 * MAX_SHIFT))
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
