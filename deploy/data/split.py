"""Dividing a collection that comes in one piece: always the same fifth of every class is held out."""

from __future__ import annotations

import numpy as np

from deploy.core.errors import DataError
from deploy.data.dataset import Dataset

HELD_OUT = 0.2
"""Share of each class that is held out."""

SEED = 0
"""Of the split; not an option, so that a later evaluation finds the same images without being told."""


def divide(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """The training part and the held-out part, stratified by class; a class of one image is only trained on.

    Raises:
        DataError: there are no labels, or nothing would be held out.
    """
    labels = dataset.labeled()
    random = np.random.RandomState(SEED)  # the same stream in every version of numpy, unlike Generator's
    held = np.zeros(len(dataset), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        count = max(1, round(HELD_OUT * len(members))) if len(members) > 1 else 0
        held[members[:count]] = True
    if not held.any():
        raise DataError(f"{dataset.name}: no class has two images, so none can be held out.", "add images")
    return (
        dataset.take(np.flatnonzero(~held), split="train"),
        dataset.take(np.flatnonzero(held), split="test"),
    )
