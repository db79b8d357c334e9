"""A small U-Net: it halves the image three times and doubles it again, and joins what it saw at each size.

Paper: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015; here with
padding and batch normalization, narrower, and with one convolution after each join.
Input: one colored image of 128x128, any multiple of 8 works. Parameters: 155,033 with five classes.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, require_counts

WIDTHS = (12, 24, 48, 96)
"""Channels at each size of the image."""


def conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 3x3 convolution with batch normalization and relu."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class UNetSmall(nn.Module):
    """A small U-Net."""

    def __init__(self, *, num_classes: int = 5, in_channels: int = 3) -> None:
        super().__init__()
        require_counts(num_classes=num_classes, in_channels=in_channels)
        pairs = zip((in_channels, *WIDTHS), WIDTHS, strict=False)
        self.down = nn.ModuleList([nn.Sequential(conv(before, width), conv(width, width)) for before, width in pairs])
        joins = itertools.pairwise(WIDTHS)
        self.up = nn.ModuleList([conv(width + below, width) for width, below in joins])
        self.pool = nn.MaxPool2d(2)
        self.classify = nn.Conv2d(WIDTHS[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every pixel, N x num_classes x H x W."""
        seen = []
        for index, stage in enumerate(self.down):
            x = stage(x if index == 0 else self.pool(x))
            seen.append(x)  # N x WIDTHS[index] x H / 2^index x W / 2^index
        for index in reversed(range(len(self.up))):
            x = self.up[index](torch.cat([seen[index], F.interpolate(x, scale_factor=2.0)], dim=1))
        logits: Tensor = self.classify(x)
        return logits


ENTRIES = {
    "unet_small": ZooEntry(
        build=UNetSmall,
        input_shape=(3, 128, 128),
        summary="U-Net for the classes of pixels, small (2015)",
        options={"num_classes": int, "in_channels": int},
        task="semantic-segmentation",
    ),
}
