"""CIFAR-10: 50,000 and 10,000 photographs, 32x32, RGB (Krizhevsky, 2009)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import CIFAR10

from deploy.data.dataset import Dataset
from deploy.data.sources._torchvision import fetch

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LAYOUT = "DIR/cifar-10-python.tar.gz, or DIR/cifar-10-batches-py/{data_batch_[1-5],test_batch,batches.meta}"


def load(split: str, root: Path | None) -> Dataset:
    """The training or the test images.

    The files are pickles; torchvision reads them only after it has held each against its published MD5.

    Raises:
        DataError: the files are not there and cannot be fetched.
    """
    return fetch("cifar10", split, root, CIFAR10, CLASSES, LAYOUT)
