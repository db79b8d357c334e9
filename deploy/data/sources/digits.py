"""The 1,797 handwritten digits of scikit-learn: 8x8, gray, 17 levels; available offline.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (its
test part). A fifth of each digit is held out, always the same images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from deploy.core.errors import UsageError
from deploy.data.dataset import Dataset, stratified_split


def load(split: str, root: Path | None) -> Dataset:
    """Load the 1,438 training images or the 359 held-out images; they come with scikit-learn."""
    if root is not None:
        raise UsageError("--data-root is not used with digits, which come with scikit-learn.")
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    digits = Dataset.from_arrays("digits", "all", tuple("0123456789"), images, bunch.target.astype(np.int64))
    train, held_out = stratified_split(digits)
    return train if split == "train" else held_out
