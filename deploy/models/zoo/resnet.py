"""ResNet-18 and plain networks: the same layers with and without shortcuts around every two convolutions.

Paper: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015.

Variants, all instances of `ResNet`:
    resnet18_gray: 1x224x224, ten classes; convolutions with bias, 1x1 shortcuts without batch normalization.
        11,178,378 parameters.
    resnet18_digits: 1x32x32, ten classes; convolutions with bias, 1x1 shortcuts with batch normalization.
        11,180,170 parameters.
    plain18_digits: resnet18_digits without shortcuts. 11,005,450 parameters.
    plain18, plain34: 3x224x224, 1000 classes, torchvision's `resnet18` and `resnet34` without shortcuts, with
        the same parameter names. 11,515,688 and 21,623,848 parameters.
    The residual networks for color images and 1000 classes are torchvision's `resnet18` to `resnet152`.

A plain network has no shortcut parameters. The paper compares it with the residual network in figure 4: without
shortcuts, 34 layers train worse than 18.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, he_normal_, require_choice, require_counts


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; with a shortcut, their input is added to their output."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, bias: bool, shortcut: nn.Module | None) -> None:
        """Create the block; the shortcut converts the input to the shape of the output, None for a plain block."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map N x in_channels x H x W to N x channels x H/stride x W/stride."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        output: Tensor = self.relu(y)
        return output


class ResNet(nn.Module):
    """Four stages of basic blocks; the shape comments are for 224x224 images; any size of at least 32x32 works."""

    def __init__(
        self,
        *,
        blocks: tuple[int, int, int, int] = (2, 2, 2, 2),
        use_residual: bool = True,
        bias: bool = False,
        shortcut_norm: bool = True,
        in_channels: int,
        num_classes: int,
    ) -> None:
        """Create the network with `blocks` in each stage; `bias` is that of all convolutions, also of shortcuts."""
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        require_choice("use_residual", use_residual, (True, False))
        self.use_residual = use_residual
        self.conv_bias = bias
        self.shortcut_norm = shortcut_norm
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=bias)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._stage(blocks[0], 64, 64, stride=1)
        self.layer2 = self._stage(blocks[1], 64, 128, stride=2)
        self.layer3 = self._stage(blocks[2], 128, 256, stride=2)
        self.layer4 = self._stage(blocks[3], 256, 512, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512, num_classes)
        he_normal_(self)

    def _stage(self, num_blocks: int, in_channels: int, channels: int, *, stride: int) -> nn.Sequential:
        """Return `num_blocks` blocks; only the first has the stride and changes the channels."""
        stage = nn.Sequential()
        for i in range(num_blocks):
            block_in, block_stride = (in_channels, stride) if i == 0 else (channels, 1)
            shortcut = self._shortcut(block_in, channels, stride=block_stride) if self.use_residual else None
            stage.append(BasicBlock(block_in, channels, stride=block_stride, bias=self.conv_bias, shortcut=shortcut))
        return stage

    def _shortcut(self, in_channels: int, channels: int, *, stride: int) -> nn.Module:
        """Return the identity if the shape does not change, else a strided 1x1 convolution."""
        if stride == 1 and in_channels == channels:
            return nn.Identity()
        conv = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=self.conv_bias)
        return nn.Sequential(conv, nn.BatchNorm2d(channels)) if self.shortcut_norm else conv

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.relu(self.bn1(self.conv1(x)))  # N x 64 x 112 x 112
        x = self.maxpool(x)  # N x 64 x 56 x 56
        x = self.layer1(x)  # N x 64 x 56 x 56
        x = self.layer2(x)  # N x 128 x 28 x 28
        x = self.layer3(x)  # N x 256 x 14 x 14
        x = self.layer4(x)  # N x 512 x 7 x 7
        x = self.avgpool(x)  # N x 512 x 1 x 1
        x = self.flatten(x)  # N x 512
        logits: Tensor = self.fc(x)  # N x num_classes
        return logits


def resnet18_gray(*, use_residual: bool = True, in_channels: int = 1, num_classes: int = 10) -> ResNet:
    """Build ResNet-18 for gray 224x224 images."""
    return ResNet(
        use_residual=use_residual, bias=True, shortcut_norm=False, in_channels=in_channels, num_classes=num_classes
    )


def resnet18_digits(*, use_residual: bool = True, in_channels: int = 1, num_classes: int = 10) -> ResNet:
    """Build ResNet-18 for gray 32x32 images."""
    return ResNet(use_residual=use_residual, bias=True, in_channels=in_channels, num_classes=num_classes)


def plain18_digits(*, in_channels: int = 1, num_classes: int = 10) -> ResNet:
    """Build `resnet18_digits` without shortcuts."""
    return resnet18_digits(use_residual=False, in_channels=in_channels, num_classes=num_classes)


def plain18(*, in_channels: int = 3, num_classes: int = 1000) -> ResNet:
    """Build torchvision's `resnet18` without shortcuts, for color 224x224 images."""
    return ResNet(use_residual=False, in_channels=in_channels, num_classes=num_classes)


def plain34(*, in_channels: int = 3, num_classes: int = 1000) -> ResNet:
    """Build torchvision's `resnet34` without shortcuts, for color 224x224 images."""
    return ResNet(blocks=(3, 4, 6, 3), use_residual=False, in_channels=in_channels, num_classes=num_classes)


_PLAIN_OPTIONS: Mapping[str, type] = {"in_channels": int, "num_classes": int}
_RESIDUAL_OPTIONS: Mapping[str, type] = {"use_residual": bool, **_PLAIN_OPTIONS}

ENTRIES = {
    "resnet18_gray": ZooEntry(
        build=resnet18_gray,
        input_shape=(1, 224, 224),
        summary="ResNet-18 on gray images, ten classes (2015)",
        options=_RESIDUAL_OPTIONS,
    ),
    "resnet18_digits": ZooEntry(
        build=resnet18_digits,
        input_shape=(1, 32, 32),
        summary="ResNet-18 on 32x32 digits (2015)",
        options=_RESIDUAL_OPTIONS,
    ),
    "plain18_digits": ZooEntry(
        build=plain18_digits,
        input_shape=(1, 32, 32),
        summary="ResNet-18 on 32x32 digits without shortcuts (2015)",
        options=_PLAIN_OPTIONS,
    ),
    "plain18": ZooEntry(
        build=plain18,
        input_shape=(3, 224, 224),
        summary="ResNet-18 without shortcuts (2015)",
        options=_PLAIN_OPTIONS,
    ),
    "plain34": ZooEntry(
        build=plain34,
        input_shape=(3, 224, 224),
        summary="ResNet-34 without shortcuts (2015)",
        options=_PLAIN_OPTIONS,
    ),
}
