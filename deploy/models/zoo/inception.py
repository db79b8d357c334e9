"""Inception with batch normalization: a single block, and a small network for CIFAR-10.

Papers: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer Vision",
2015 (`inception_block`); Ioffe, Szegedy, "Batch Normalization", 2015 (`inception_small`).

Variants:
    inception_block: the first block of Inception v3, on its 192x35x35 feature map. 172,768 parameters.
    inception_small: two blocks for 3x32x32 images, ten classes. 577,194 parameters.
    The complete Inception v3 is torchvision's `inception_v3`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, he_normal_, require_counts


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Return a convolution, batch normalization and relu."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias),
        nn.BatchNorm2d(out_channels, eps=eps),
        nn.ReLU(),
    )


class InceptionBlock(nn.Module):
    """Inception v3's block: 1x1; 1x1 then 3x3; 1x1 then 5x5; average pool then 1x1. Keeps height and width.

    As in v3, the convolutions have no bias, batch normalization has an eps of 1e-3, and the average includes the
    zeros of the padding (`count_include_pad`).
    """

    def __init__(self, *, in_channels: int = 192, pool_features: int = 32) -> None:
        """Create the block with `in_channels` input and 64 + 96 + 64 + `pool_features` output channels."""
        super().__init__()
        require_counts(in_channels=in_channels, pool_features=pool_features)
        self.branch1x1 = conv_bn_relu(in_channels, 64, 1, bias=False, eps=1e-3)
        self.branch3x3 = nn.Sequential(
            conv_bn_relu(in_channels, 64, 1, bias=False, eps=1e-3),
            conv_bn_relu(64, 96, 3, padding=1, bias=False, eps=1e-3),
        )
        self.branch5x5 = nn.Sequential(
            conv_bn_relu(in_channels, 48, 1, bias=False, eps=1e-3),
            conv_bn_relu(48, 64, 5, padding=2, bias=False, eps=1e-3),
        )
        self.branch_pool = nn.Sequential(
            nn.AvgPool2d(kernel_size=3, stride=1, padding=1),
            conv_bn_relu(in_channels, pool_features, 1, bias=False, eps=1e-3),
        )
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map N x in_channels x H x W to N x (224 + pool_features) x H x W."""
        return torch.cat([self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), self.branch_pool(x)], dim=1)


class SmallInceptionBlock(nn.Module):
    """Four branches of equal width: 1x1; 1x1 then 3x3; 1x1 then 5x5; max-pool then 3x3.

    Keeps height and width. Every convolution has a bias, batch normalization and relu.
    """

    def __init__(self, in_channels: int, channels: int, *, reduce: int) -> None:
        """Create the block with `channels` outputs per branch; the 1x1 convolutions before others have `reduce`."""
        super().__init__()
        self.branch1x1 = conv_bn_relu(in_channels, channels, 1)
        self.branch3x3 = nn.Sequential(
            conv_bn_relu(in_channels, reduce, 1),
            conv_bn_relu(reduce, channels, 3, padding=1),
        )
        self.branch5x5 = nn.Sequential(
            conv_bn_relu(in_channels, reduce, 1),
            conv_bn_relu(reduce, channels, 5, padding=2),
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
            conv_bn_relu(in_channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map N x in_channels x H x W to N x (4 * channels) x H x W."""
        return torch.cat([self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), self.branch_pool(x)], dim=1)


class InceptionSmall(nn.Module):
    """Two convolutions and two Inception blocks, for images of 32x32."""

    def __init__(self, *, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        self.conv1 = conv_bn_relu(in_channels, 64, 7, stride=2, padding=1)
        self.conv2 = conv_bn_relu(64, 128, 3, stride=2, padding=1)
        self.stage1 = nn.Sequential(
            SmallInceptionBlock(128, 64, reduce=16),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.stage2 = nn.Sequential(
            SmallInceptionBlock(256, 96, reduce=32),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.avgpool = nn.AvgPool2d(kernel_size=2)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(384, num_classes)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.conv1(x)  # N x 64 x 14 x 14
        x = self.conv2(x)  # N x 128 x 7 x 7
        x = self.stage1(x)  # N x 256 x 4 x 4
        x = self.stage2(x)  # N x 384 x 2 x 2
        x = self.avgpool(x)  # N x 384 x 1 x 1
        x = self.flatten(x)  # N x 384
        logits: Tensor = self.fc(x)  # N x num_classes
        return logits


ENTRIES = {
    "inception_block": ZooEntry(
        build=InceptionBlock,
        input_shape=(192, 35, 35),
        summary="a single Inception v3 block on a feature map (2015)",
        options={"pool_features": int, "in_channels": int},
    ),
    "inception_small": ZooEntry(
        build=InceptionSmall,
        input_shape=(3, 32, 32),
        summary="two Inception blocks with batch normalization for CIFAR-10 (2015)",
        options={"in_channels": int, "num_classes": int},
    ),
}
