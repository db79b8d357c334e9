"""One epoch of training, and one look at the held-out images; every random draw comes from (seed, epoch)."""

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
from deploy.core.model import Model, Preprocessing, name_outputs
from deploy.data.dataset import Dataset
from deploy.data.preprocess import batches
from deploy.evaluation.accuracy import Accuracy
from deploy.evaluation.predictions import Predictions, predict
from deploy.models.weights import check_finite

RATES = {"sgd": 0.05, "adamw": 0.003}
"""Learning rates that serve where none is given."""

DECAYS = {"sgd": 5e-4, "adamw": 0.05}
"""Weight decay of matrices and kernels; biases and scales have none."""

SCHEDULES = ("one-cycle", "cosine")
AUGMENTATIONS = ("light", "none")
MOMENTUM = 0.9
WARM_UP = 0.25
AUXILIARY = 0.3
"""Weight of the loss of auxiliary heads (Szegedy et al., Going Deeper with Convolutions, 2015, section 5)."""

SINGLE_THREADED = 100_000
"""Networks with fewer parameters are trained with one thread."""

ROTATION, SCALE, SHIFT = 0.15, 0.1, 0.05
"""Largest random rotation in radians, change of size, and shift as a share of the side."""


class DivergedError(Exception):
    """The loss or a weight is no longer a number."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        batch_size: images in a step; what is left over at the end of an epoch waits for another one's shuffle.
        optimizer: ``sgd`` (Nesterov momentum 0.9) or ``adamw``.
        lr: largest learning rate.
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
        for name, known in (("optimizer", RATES), ("schedule", SCHEDULES), ("augment", AUGMENTATIONS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}.")
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError("epochs and batch size must be at least 1.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"learning rate {self.lr} is not a positive number.")


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """The rate at a step; nothing else is the state of the schedule."""
    warm = WARM_UP * total if recipe.schedule == "one-cycle" else 0.0
    if step < warm:
        return recipe.lr * (step + 1) / (warm + 1)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


@contextmanager
def repeatable(module: torch.nn.Module) -> Iterator[None]:
    """Only deterministic algorithms, one thread for a small network; afterwards all is as it was, the generator too.

    In a small network's operations threads mostly wait for one another: LeNet is not faster with two, and six times
    slower where another program wants the second core. What does not depend on the threads is also the same on
    machines with different numbers of cores.
    """
    threads = torch.get_num_threads()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    if sum(value.numel() for value in module.parameters()) < SINGLE_THREADED:
        torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class Trainer:
    """A network, its optimizer, and the images.

    Args:
        model: its module is trained in place.
        data: images to train on.
        recipe: how.
    """

    def __init__(self, model: Model, data: Dataset, recipe: Recipe) -> None:
        if model.preprocessing is None:
            raise UsageError(f"{model.name} does not say how images become its input.")
        self.model, self.data, self.recipe = model, data, recipe
        self.preprocessing: Preprocessing = model.preprocessing
        self.steps = max(1, len(data) // recipe.batch_size)
        self.optimizer = _optimizer(model.module, recipe)

    def train(self, epoch: int, advance: Callable[[int, float, float], None]) -> dict[str, float]:
        """One pass over the training images, in an order and with changes drawn from (seed, epoch).

        Args:
            epoch: from 0.
            advance: told steps done, mean loss and share right so far.

        Returns:
            ``learning_rate`` of the last step, ``train_loss`` and ``train_top1``.

        Raises:
            DivergedError: the loss or a weight is not finite.
            ModelError: the network cannot be trained.
        """
        torch.manual_seed(_mixed(self.recipe.seed, epoch))
        order = torch.randperm(len(self.data)).numpy()[: self.steps * self.recipe.batch_size]
        self.model.module.train()
        lost, right, seen, rate = 0.0, 0, 0, 0.0
        shuffled = batches(self.data.take(order), self.preprocessing, self.recipe.batch_size)
        for step, (images, labels) in enumerate(shuffled):
            rate = learning_rate(self.recipe, epoch * self.steps + step, self.recipe.epochs * self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, hits = self._step(torch.from_numpy(images), torch.from_numpy(labels))
            lost, right, seen = lost + loss * len(images), right + hits, seen + len(images)
            advance(step + 1, lost / seen, right / seen)
        try:
            check_finite(self.model.module, self.model.name)
        except WeightsError as exc:
            raise DivergedError(exc.message) from exc
        return {"learning_rate": rate, "train_loss": lost / seen, "train_top1": right / seen}

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
        if self.recipe.augment == "light":
            images = _lightly_changed(images)
        try:
            outputs = self._outputs(images)
            loss = F.cross_entropy(outputs["main"], labels)
            for name, value in outputs.items():
                if name.startswith("aux"):
                    loss = loss + AUXILIARY * F.cross_entropy(value, labels)
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
        positional, keyword = self.model.arguments({self.model.inputs[0].name: images})
        named = name_outputs(self.model.module(*positional, **keyword))
        first = next(iter(named))
        return {"main": named.pop(first), **named}

    def look(self, held_out: Dataset) -> tuple[Predictions, float]:
        """Predictions for the held-out images, and the mean loss over them.

        Raises:
            DivergedError: the loss is not finite.
        """
        self.model.module.eval()
        labels = held_out.labeled()
        lost: list[NDArray[np.float64]] = []

        def classify(images: NDArray[np.float32]) -> NDArray[Any]:
            with torch.no_grad():
                logits = self._outputs(torch.from_numpy(images))["main"].double()
            done = sum(map(len, lost))
            right = torch.from_numpy(labels[done : done + len(images)])
            lost.append(F.cross_entropy(logits, right, reduction="none").numpy())
            return np.asarray(logits.numpy())

        predictions = predict(
            classify, held_out, labels, self.preprocessing, self.recipe.batch_size, lambda done, total: None
        )
        loss = float(np.concatenate(lost).mean())
        if not math.isfinite(loss):
            raise DivergedError(f"the loss over the held-out images is {loss}")
        return predictions, loss


def row(
    epoch: int, trained: dict[str, float], predictions: Predictions, loss: float, seconds: float
) -> dict[str, float]:
    """One line of the training curve; epochs count from 1."""
    accuracy = Accuracy.of(predictions)
    seen = {"test_loss": loss, "test_top1": accuracy.top1, "seconds": round(seconds, 3)}
    return {"epoch": epoch + 1, **trained, **seen}


def _mixed(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:8], "big")


def _optimizer(module: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    wanted = [value for value in module.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in wanted if value.dim() > 1], "weight_decay": DECAYS[recipe.optimizer]},
        {"params": [value for value in wanted if value.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ModelError("the network has no parameter that could be trained.")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=MOMENTUM, nesterov=True)


def _lightly_changed(images: torch.Tensor) -> torch.Tensor:
    """Each image rotated, resized and shifted a little; what comes in at the edges repeats the border."""

    def drawn(largest: float) -> torch.Tensor:
        return (torch.rand(len(images)) * 2 - 1) * largest

    angle, size = drawn(ROTATION), 1 + drawn(SCALE)
    cosine, sine = size * angle.cos(), size * angle.sin()
    # affine_grid counts in half sides
    rows = (cosine, -sine, drawn(2 * SHIFT), sine, cosine, drawn(2 * SHIFT))
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
