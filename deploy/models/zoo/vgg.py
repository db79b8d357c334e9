"""VGG: blocks of 3x3 convolutions; each block halves the height and width.

Paper: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014,
configuration A. Input: one gray image of 224x224. Parameters: 128,806,154 and 43,093,322.

Variants:
    vgg11_gray: the paper's eight convolutions, for ten classes.
    vgg11_small: a quarter of the channels in every convolution; the fully connected layers keep their width.
    Both have no dropout by default; the paper uses `dropout=0.5`.
    The networks for color images and 1000 classes are torchvision's `vgg11` to `vgg19`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, he_normal_, require_counts


def vgg_block(num_convs: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """Return `num_convs` 3x3 convolutions, each with relu, and a max-pool that halves height and width."""
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1), nn.ReLU()]
        in_channels = out_channels
    return nn.Sequential(*layers, nn.MaxPool2d(kernel_size=2, stride=2))


class VGG11(nn.Module):
    """VGG-11 for images of 224x224; the shape comments use w = width."""

    def __init__(self, *, width: int, in_channels: int, num_classes: int, dropout: float) -> None:
        """Create the network with `width` channels in the first block; 64 in the paper."""
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        self.block1 = vgg_block(1, in_channels, width)
        self.block2 = vgg_block(1, width, 2 * width)
        self.block3 = vgg_block(2, 2 * width, 4 * width)
        self.block4 = vgg_block(2, 4 * width, 8 * width)
        self.block5 = vgg_block(2, 8 * width, 8 * width)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(8 * width * 7 * 7, 4096)
        self.fc2 = nn.Linear(4096, 4096)
        self.fc3 = nn.Linear(4096, num_classes)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.block1(x)  # N x w x 112 x 112
        x = self.block2(x)  # N x 2w x 56 x 56
        x = self.block3(x)  # N x 4w x 28 x 28
        x = self.block4(x)  # N x 8w x 14 x 14
        x = self.block5(x)  # N x 8w x 7 x 7
        x = self.flatten(x)  # N x 392w
        x = self.dropout(self.relu(self.fc1(x)))  # N x 4096
        x = self.dropout(self.relu(self.fc2(x)))
        logits: Tensor = self.fc3(x)  # N x num_classes
        return logits


def vgg11_gray(*, in_channels: int = 1, num_classes: int = 10, dropout: float = 0.0) -> VGG11:
    """Build VGG-11 for gray 224x224 images."""
    return VGG11(width=64, in_channels=in_channels, num_classes=num_classes, dropout=dropout)


def vgg11_small(*, in_channels: int = 1, num_classes: int = 10, dropout: float = 0.0) -> VGG11:
    """Build VGG-11 with a quarter of the channels for gray 224x224 images."""
    return VGG11(width=16, in_channels=in_channels, num_classes=num_classes, dropout=dropout)


_OPTIONS: Mapping[str, type] = {"in_channels": int, "num_classes": int, "dropout": float}

ENTRIES = {
    "vgg11_gray": ZooEntry(
        build=vgg11_gray,
        input_shape=(1, 224, 224),
        summary="VGG-11 on gray images, ten classes (2014)",
        options=_OPTIONS,
    ),
    "vgg11_small": ZooEntry(
        build=vgg11_small,
        input_shape=(1, 224, 224),
        summary="VGG-11 with a quarter of the channels on gray images, ten classes (2014)",
        options=_OPTIONS,
    ),
}
