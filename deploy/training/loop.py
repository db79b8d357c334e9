"""The training loop: one epoch of training, and the evaluation on the held-out images.

Every random draw is a function of the seed and the epoch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from deploy.core.errors import ModelError, UsageError, WeightsError
from deploy.core.model import Model
from deploy.data.dataset import Dataset
from deploy.data.preprocess import batches, image_preprocessing
from deploy.evaluation.accuracy import Accuracy
from deploy.evaluation.score import Score
from deploy.models.weights import check_finite
from deploy.training.objective import objective_of

LEARNING_RATES = {"sgd": 0.05, "adamw": 0.003}
"""Default learning rate of each optimizer."""

WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.05}
"""Weight decay of matrices and kernels; biases and scales have none."""

SCHEDULES = ("one-cycle", "cosine")
AUGMENTATIONS = ("light", "none")
MOMENTUM = 0.9
WARM_UP = 0.25
"""Share of the steps with a rising learning rate in the schedule ``one-cycle``."""

SINGLE_THREAD_PARAMETERS = 100_000
"""Networks with fewer parameters are trained with one thread."""


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
        self.objective = objective_of(model, data)
        self.steps = max(1, len(data) // recipe.batch_size)
        self.optimizer = _optimizer(model.module, recipe)

    def train(self, epoch: int, advance: Callable[[int, float, float | None], None]) -> dict[str, float]:
        """Train for one epoch.

        Args:
            epoch: counted from 0; with the seed, it determines the order and the augmentation of the images.
            advance: receives the number of steps done, the mean loss, and the top-1 accuracy of a classifier so far.

        Returns:
            ``learning_rate`` of the last step, ``train_loss``, and ``train_top1`` of a classifier.

        Raises:
            DivergedError: the loss or a weight is not finite.
        """
        digest = hashlib.sha256(f"{self.recipe.seed} {epoch}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "big"))
        order = torch.randperm(len(self.data)).numpy()[: self.steps * self.recipe.batch_size]
        self.model.module.train()
        total_loss, seen, rate = 0.0, 0, 0.0
        correct: float | None = 0.0
        shuffled = self.data.take(order)
        for step, (images, _) in enumerate(batches(shuffled, self.preprocessing, self.recipe.batch_size)):
            rate = learning_rate(self.recipe, epoch * self.steps + step, self.recipe.epochs * self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, hits = self._step(torch.from_numpy(images), shuffled.take(np.arange(seen, seen + len(images))))
            total_loss, seen = total_loss + loss * len(images), seen + len(images)
            correct = None if hits is None or correct is None else correct + hits
            advance(step + 1, total_loss / seen, None if correct is None else correct / seen)
        try:
            check_finite(self.model.module, self.model.name)
        except WeightsError as exc:
            raise DivergedError(exc.message) from exc
        known = {} if correct is None else {"train_top1": correct / seen}
        return {"learning_rate": rate, "train_loss": total_loss / seen, **known}

    def _step(self, images: torch.Tensor, part: Dataset) -> tuple[float, float | None]:
        """Take one step; return the loss, and the number of correct predictions of a classifier."""
        try:
            loss, hits = self.objective.loss(images, part, augment=self.recipe.augment == "light")
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DivergedError(f"the loss is {value}")
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"{self.model.name} cannot be trained: {str(exc).splitlines()[0]}") from exc
        return value, hits

    def evaluate(self, held_out: Dataset) -> tuple[Accuracy | Score, float]:
        """Return the score of the held-out images, and the mean loss.

        Raises:
            DivergedError: the loss is not finite.
        """
        self.model.module.eval()
        with torch.no_grad():
            score, loss = self.objective.evaluate(held_out, self.recipe.batch_size)
        if not math.isfinite(loss):
            raise DivergedError(f"the held-out loss is {loss}")
        return score, loss


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
