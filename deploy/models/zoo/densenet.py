"""DenseNet: inside a block the input of each convolution is the outputs of all previous ones.

Paper: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", 2016. Input: one
gray image of 128x128; any size of at least 32x32 works. Parameters: 758,226.

Variants:
    densenet_gray: four blocks of four convolutions, growth rate 32, no bottleneck, for ten classes.
    The networks for color images and 1000 classes are torchvision's `densenet121` to `densenet201`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, he_normal_, require_counts


def bn_relu_conv(in_channels: int, out_channels: int, *, kernel_size: int, padding: int = 0) -> nn.Sequential:
    """Return batch normalization, relu and a convolution, in this order (pre-activation)."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding),
    )


class DenseBlock(nn.Module):
    """Convolutions that each append `growth_rate` channels to their input and keep height and width."""

    def __init__(self, num_convs: int, in_channels: int, growth_rate: int) -> None:
        """Create the block with in_channels + num_convs * growth_rate output channels."""
        super().__init__()
        self.convs = nn.ModuleList(
            bn_relu_conv(in_channels + i * growth_rate, growth_rate, kernel_size=3, padding=1) for i in range(num_convs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map N x C x H x W to N x (C + num_convs * growth_rate) x H x W."""
        for conv in self.convs:
            x = torch.cat([x, conv(x)], dim=1)
        return x


def transition(in_channels: int) -> nn.Sequential:
    """Return the layers between two dense blocks: they halve the channels, the height and the width."""
    return nn.Sequential(
        bn_relu_conv(in_channels, in_channels // 2, kernel_size=1),
        nn.AvgPool2d(kernel_size=2, stride=2),
    )


class DenseNet(nn.Module):
    """DenseNet of four blocks of four convolutions; the shape comments are for 128x128 images."""

    def __init__(self, *, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.dense1 = DenseBlock(4, 64, growth_rate=32)
        self.transition1 = transition(192)
        self.dense2 = DenseBlock(4, 96, growth_rate=32)
        self.transition2 = transition(224)
        self.dense3 = DenseBlock(4, 112, growth_rate=32)
        self.transition3 = transition(240)
        self.dense4 = DenseBlock(4, 120, growth_rate=32)
        self.head = nn.Sequential(
            nn.BatchNorm2d(248),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(248, num_classes)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.stem(x)  # N x 64 x 32 x 32
        x = self.dense1(x)  # N x 192 x 32 x 32
        x = self.transition1(x)  # N x 96 x 16 x 16
        x = self.dense2(x)  # N x 224 x 16 x 16
        x = self.transition2(x)  # N x 112 x 8 x 8
        x = self.dense3(x)  # N x 240 x 8 x 8
        x = self.transition3(x)  # N x 120 x 4 x 4
        x = self.dense4(x)  # N x 248 x 4 x 4
        x = self.head(x)  # N x 248
        logits: Tensor = self.fc(x)  # N x num_classes
        return logits


ENTRIES = {
    "densenet_gray": ZooEntry(
        build=DenseNet,
        input_shape=(1, 128, 128),
        summary="small DenseNet on gray 128x128 images, ten classes (2016)",
        options={"in_channels": int, "num_classes": int},
    ),
}
