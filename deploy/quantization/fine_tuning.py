"""Options and result of quantization-aware fine-tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deploy.core.errors import UsageError

TRAINING_SAMPLES = 8192
"""Largest number of training samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuning:
    """How a Q/DQ graph is trained.

    Attributes:
        epochs: passes over the samples.
        lr: largest learning rate of Adam, as a share of the root mean square of each channel; it rises
            over a fifth of the steps and falls to 0 by a cosine.
        batch_size: samples per step.
        seed: of the order of the samples.
    """

    epochs: int = 5
    lr: float = 3e-4
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError("epochs and batch size must be at least 1.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"learning rate {self.lr} is not a positive number.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """How the weights of a Q/DQ file were trained.

    Attributes:
        losses: mean loss on samples apart, at first and after each epoch; the file has the weights with the smallest.
        module_db: ratio in dB of the signal to the difference between the file in its runtime and the module that was
            trained; infinite where they are equal.
    """

    samples: int
    options: FineTuning
    losses: tuple[float, ...]
    module_db: float
