"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28x28, gray (LeCun, Cortes, Burges, 1998)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import MNIST

from deploy.data.dataset import Dataset
from deploy.data.sources._torchvision import load_torchvision

LAYOUT = "DIR/MNIST/raw/{train,t10k}-images-idx3-ubyte[.gz] and …/{train,t10k}-labels-idx1-ubyte[.gz]"


def load(split: str, root: Path | None) -> Dataset:
    """Load the training or test images."""
    return load_torchvision("mnist", split, root, MNIST, tuple("0123456789"), LAYOUT)
