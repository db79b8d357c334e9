"""Network in Network: each convolution is followed by two 1x1 convolutions.

Paper: Lin, Chen, Yan, "Network In Network", 2013. Input: one gray image of 224x224. Parameters: 1,992,166.
There is no fully connected layer: the last block has one channel per class, and the logits are the averages of
these channels over the image. The relu of the last block makes them non-negative.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, he_normal_, require_counts

INITIAL_LOGIT = 10.0
"""Value around which the logits start; a constant added to all logits does not change the softmax."""


def nin_block(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0
) -> nn.Sequential:
    """Return a convolution and two 1x1 convolutions, each of the three with relu."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, kernel_size=1),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, kernel_size=1),
        nn.ReLU(),
    )


def _avoid_dead_classes(block: nn.Sequential) -> None:
    """Initialize the last block so that no class is stuck at zero (dead relu).

    The input of the last block comes from a relu: it is never negative and, before training, similar for all images.
    The sign of a logit would then be that of the sum of its weights: about half of the classes would be 0 for all
    images, get no gradient and never be predicted. Weights with zero mean respond to differences between images, the
    bias makes all logits positive, and 1x1 convolutions that start as the identity keep the classes separate.
    """
    spatial, first, second = (layer for layer in block if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        spatial.weight -= spatial.weight.mean(dim=(1, 2, 3), keepdim=True)
        if spatial.bias is not None:
            spatial.bias.fill_(INITIAL_LOGIT)
    nn.init.dirac_(first.weight)
    nn.init.dirac_(second.weight)


class NiN(nn.Module):
    """Network in Network for images of 224x224."""

    def __init__(self, *, in_channels: int = 1, num_classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        self.block1 = nin_block(in_channels, 96, 11, stride=4)
        self.pool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.block2 = nin_block(96, 256, 5, padding=2)
        self.pool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.block3 = nin_block(256, 384, 3, padding=1)
        self.pool3 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.block4 = nin_block(384, num_classes, 3, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        he_normal_(self)
        _avoid_dead_classes(self.block4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.block1(x)  # N x 96 x 54 x 54
        x = self.pool1(x)  # N x 96 x 26 x 26
        x = self.block2(x)  # N x 256 x 26 x 26
        x = self.pool2(x)  # N x 256 x 12 x 12
        x = self.block3(x)  # N x 384 x 12 x 12
        x = self.pool3(x)  # N x 384 x 5 x 5
        x = self.dropout(x)
        x = self.block4(x)  # N x num_classes x 5 x 5
        x = self.avgpool(x)  # N x num_classes x 1 x 1
        logits: Tensor = self.flatten(x)  # N x num_classes
        return logits


ENTRIES = {
    "nin": ZooEntry(
        build=NiN,
        input_shape=(1, 224, 224),
        summary="Network in Network on gray images, ten classes (2013)",
        options={"in_channels": int, "num_classes": int, "dropout": float},
    ),
}
