"""Data leakage: whether weights were trained on the images that they are evaluated on."""

from __future__ import annotations

from deploy.core.model import Weights
from deploy.data.dataset import Dataset

_DIGEST_DIGITS = 12


def trained_on(dataset: Dataset, epochs: int) -> str:
    """Return a description of the training data, for `Weights.source`; `seen_in_training` reads it."""
    return f"trained on {dataset.name} ({len(dataset)} images of {dataset.digest[:_DIGEST_DIGITS]}), {epochs} epochs"


def seen_in_training(weights: Weights, dataset: Dataset) -> str:
    """Return how much of a data set `deploy train` used for the weights: ``all``, ``part`` or ``none``."""
    if f"of {dataset.digest[:_DIGEST_DIGITS]})" not in weights.source:
        return "none"
    return "all" if f"({len(dataset)} images of" in weights.source else "part"
