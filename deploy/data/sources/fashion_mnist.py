"""Fashion-MNIST: 60,000 and 10,000 pieces of clothing, 28x28, gray (Xiao, Rasul, Vollgraf, 2017)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import FashionMNIST

from deploy.data.dataset import Dataset
from deploy.data.sources._torchvision import fetch

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
LAYOUT = "DIR/FashionMNIST/raw/{train,t10k}-images-idx3-ubyte[.gz] and …/{train,t10k}-labels-idx1-ubyte[.gz]"


def load(split: str, root: Path | None) -> Dataset:
    """The training or the test images.

    Raises:
        DataError: the files are not there and cannot be fetched.
    """
    return fetch("fashion-mnist", split, root, FashionMNIST, CLASSES, LAYOUT)
