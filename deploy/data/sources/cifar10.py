"""CIFAR-10: 50,000 training and 10,000 test photographs, 32x32, RGB (Krizhevsky, 2009)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import CIFAR10

from deploy.data.dataset import Dataset
from deploy.data.sources._torchvision import load_torchvision

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LAYOUT = "DIR/cifar-10-python.tar.gz, or DIR/cifar-10-batches-py/{data_batch_[1-5],test_batch,batches.meta}"


def load(split: str, root: Path | None) -> Dataset:
    """Load the training or test images.

    The files are pickles; torchvision checks the published MD5 of each before reading it.
    """
    return load_torchvision("cifar10", split, root, CIFAR10, CLASSES, LAYOUT)
