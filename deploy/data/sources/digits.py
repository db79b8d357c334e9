"""The 1,797 handwritten digits of scikit-learn: 8x8, gray, 17 levels; offline.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (its
test part). A fifth of each digit is held out, always the same ones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from deploy.data.dataset import ArrayImages, Dataset
from deploy.data.split import divide


def load(split: str, root: Path | None) -> Dataset:
    """The training part (1,438 images) or the held-out part (359)."""
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = bunch.target.astype(np.int64)
    whole = Dataset(
        name="digits",
        split="all",
        classes=tuple("0123456789"),
        images=ArrayImages(images),
        labels=labels,
        digest=hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
    )
    train, held_out = divide(whole)
    return train if split == "train" else held_out
