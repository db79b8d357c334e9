"""MNIST: 60,000 and 10,000 handwritten digits, 28x28, gray (LeCun, Cortes, Burges, 1998)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import MNIST

from deploy.data.dataset import Dataset
from deploy.data.sources._torchvision import fetch

LAYOUT = "DIR/MNIST/raw/{train,t10k}-images-idx3-ubyte[.gz] and …/{train,t10k}-labels-idx1-ubyte[.gz]"


def load(split: str, root: Path | None) -> Dataset:
    """The training or the test images.

    Raises:
        DataError: the files are not there and cannot be fetched.
    """
    return fetch("mnist", split, root, MNIST, tuple("0123456789"), LAYOUT)
