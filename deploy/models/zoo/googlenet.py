"""GoogLeNet: nine Inception blocks, each with four parallel branches.

Paper: Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich, "Going Deeper with
Convolutions", 2014. Input: one gray image of 96x96. Parameters: 5,977,530.

Variants:
    googlenet_gray: the paper's blocks for ten classes, without auxiliary heads, dropout or local response
        normalization.
    The network for color images and 1000 classes, with batch normalization, is torchvision's `googlenet`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, he_normal_, require_counts


class Inception(nn.Module):
    """Four parallel branches whose outputs are concatenated along the channels; keeps height and width."""

    def __init__(self, in_channels: int, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int) -> None:
        """Create the block; c1 to c4 are the output channels of the convolutions in each branch."""
        super().__init__()
        self.branch1 = nn.Sequential(nn.Conv2d(in_channels, c1, kernel_size=1), nn.ReLU())
        self.branch2 = nn.Sequential(
            nn.Conv2d(in_channels, c2[0], kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(c2[0], c2[1], kernel_size=3, padding=1),
            nn.ReLU(),
        )
        self.branch3 = nn.Sequential(
            nn.Conv2d(in_channels, c3[0], kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(c3[0], c3[1], kernel_size=5, padding=2),
            nn.ReLU(),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
            nn.Conv2d(in_channels, c4, kernel_size=1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map N x in_channels x H x W to N x (c1 + c2[1] + c3[1] + c4) x H x W."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class GoogLeNet(nn.Module):
    """GoogLeNet; the shape comments are for 96x96 images, and any size of at least 32x32 works."""

    def __init__(self, *, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        self.stage1 = nn.Sequential(
            nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.stage2 = nn.Sequential(
            nn.Conv2d(64, 64, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(64, 192, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.stage3 = nn.Sequential(
            Inception(192, 64, (96, 128), (16, 32), 32),
            Inception(256, 128, (128, 192), (32, 96), 64),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.stage4 = nn.Sequential(
            Inception(480, 192, (96, 208), (16, 48), 64),
            Inception(512, 160, (112, 224), (24, 64), 64),
            Inception(512, 128, (128, 256), (24, 64), 64),
            Inception(512, 112, (144, 288), (32, 64), 64),
            Inception(528, 256, (160, 320), (32, 128), 128),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.stage5 = nn.Sequential(
            Inception(832, 256, (160, 320), (32, 128), 128),
            Inception(832, 384, (192, 384), (48, 128), 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(1024, num_classes)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.stage1(x)  # N x 64 x 24 x 24
        x = self.stage2(x)  # N x 192 x 12 x 12
        x = self.stage3(x)  # N x 480 x 6 x 6
        x = self.stage4(x)  # N x 832 x 3 x 3
        x = self.stage5(x)  # N x 1024
        logits: Tensor = self.fc(x)  # N x num_classes
        return logits


ENTRIES = {
    "googlenet_gray": ZooEntry(
        build=GoogLeNet,
        input_shape=(1, 96, 96),
        summary="GoogLeNet (Inception v1) on gray 96x96 images, ten classes (2014)",
        options={"in_channels": int, "num_classes": int},
    ),
}
