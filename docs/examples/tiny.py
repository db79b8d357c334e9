"""One family of networks: two convolutions and a linear layer, for images of 32x32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, require_counts


class Tiny(nn.Module):
    """Submodules are attributes in the order they run."""

    def __init__(self, *, width: int, in_channels: int, num_classes: int) -> None:
        """Create the network for images of `in_channels` channels and `num_classes` logits."""
        super().__init__()
        require_counts(width=width, in_channels=in_channels, num_classes=num_classes)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = torch.relu(self.bn1(self.conv1(x)))  # N x width x 16 x 16
        x = torch.relu(self.bn2(self.conv2(x)))  # N x 2 width x 8 x 8
        logits: Tensor = self.head(x.mean((2, 3)))  # N x num_classes
        return logits


def tiny(*, width: int = 16, in_channels: int = 1, num_classes: int = 10) -> Tiny:
    """Build the network; every option has a default and arrives by name."""
    return Tiny(width=width, in_channels=in_channels, num_classes=num_classes)


ENTRIES: Mapping[str, ZooEntry] = {
    "tiny": ZooEntry(
        build=tiny,
        input_shape=(1, 32, 32),
        summary="two convolutions and a linear layer",
        options={"width": int, "in_channels": int, "num_classes": int},
    ),
}
