"""The network of `benchmarks.qat`: depthwise separable convolutions without normalization or residuals."""

from __future__ import annotations

import torch
from torch import nn


def build(width: int = 24, classes: int = 10) -> nn.Module:
    """Return a MobileNet for 1 x 16 x 16 images, untrained; batch normalizations are folded when it is exported."""

    def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU6(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
        separable(width, 2 * width, 2),
        separable(2 * width, 2 * width, 1),
        separable(2 * width, 4 * width, 2),
        separable(4 * width, 4 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )
