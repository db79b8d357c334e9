"""Fashion-MNIST: 60,000 training and 10,000 test images of clothing, 28x28, gray (Xiao, Rasul, Vollgraf, 2017)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import FashionMNIST

from deploy.data.dataset import Dataset
from deploy.data.sources._torchvision import load_torchvision

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
LAYOUT = "DIR/FashionMNIST/raw/{train,t10k}-images-idx3-ubyte[.gz] and …/{train,t10k}-labels-idx1-ubyte[.gz]"


def load(split: str, root: Path | None) -> Dataset:
    """Load the training or test images."""
    return load_torchvision("fashion-mnist", split, root, FashionMNIST, CLASSES, LAYOUT)
