"""MobileNet v1: each convolution is split into a depthwise and a pointwise (1x1) convolution.

Paper: Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam, "MobileNets: Efficient Convolutional
Neural Networks for Mobile Vision Applications", 2017. Input: one color image of 224x224; any size of at
least 32x32 works. Parameters: 4,231,976.

Variants:
    mobilenet_v1: table 1 of the paper for 1000 classes; `width_multiplier` (alpha in the paper: 1, 0.75, 0.5
        or 0.25) scales the channels of every layer.
    MobileNet v2 and v3 are torchvision's `mobilenet_v2`, `mobilenet_v3_small` and `mobilenet_v3_large`.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, he_normal_, require_counts

# Output channels and stride of the thirteen blocks, at width multiplier 1.
BLOCKS: tuple[tuple[int, int], ...] = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def depthwise_separable(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    """Return a 3x3 depthwise and a 1x1 pointwise convolution, each with batch normalization and relu."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel_size=3, stride=stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class MobileNetV1(nn.Module):
    """MobileNet v1; the shape comments are for 224x224 images and width multiplier 1."""

    def __init__(self, *, width_multiplier: float = 1.0, in_channels: int = 3, num_classes: int = 1000) -> None:
        """Create the network; the channels of every layer are scaled, rounded down, to at least 8."""
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        if not 0 < width_multiplier < math.inf:
            raise ValueError(f"width_multiplier must be a number above 0; got {width_multiplier!r}")

        def scaled(channels: int) -> int:
            return max(8, int(channels * width_multiplier))

        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, scaled(32), kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(scaled(32)),
            nn.ReLU(),
        )
        widths = [scaled(32), *(scaled(channels) for channels, _ in BLOCKS)]
        self.blocks = nn.Sequential(
            *(depthwise_separable(widths[i], widths[i + 1], stride=stride) for i, (_, stride) in enumerate(BLOCKS))
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[-1], num_classes)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.stem(x)  # N x 32 x 112 x 112
        x = self.blocks(x)  # N x 1024 x 7 x 7
        x = self.avgpool(x)  # N x 1024 x 1 x 1
        x = self.flatten(x)  # N x 1024
        logits: Tensor = self.fc(x)  # N x num_classes
        return logits


ENTRIES = {
    "mobilenet_v1": ZooEntry(
        build=MobileNetV1,
        input_shape=(3, 224, 224),
        summary="MobileNet v1, depthwise separable convolutions (2017)",
        options={"width_multiplier": float, "in_channels": int, "num_classes": int},
    ),
}
