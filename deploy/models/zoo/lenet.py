"""LeNet: two convolutions with pooling, then three fully connected layers.

Paper: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
Input: one gray image, 32x32 (`lenet5`) or 28x28 (`lenet`, `lenet_bn`). Parameters: 61,706; `lenet_bn` 62,158.

Variants:
    lenet5: the paper's sizes, with a choice of activation and pooling. `activation="none"` has no activation
        and is linear except for max pooling.
    lenet: for MNIST's 28x28 images, with a padded first convolution and average pooling.
    lenet_bn: lenet with sigmoid and the batch normalization of `batchnorm.py` after every convolution and
        every fully connected layer except the last.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from deploy.models.zoo.batchnorm import BatchNorm
from deploy.models.zoo_entry import ZooEntry, require_choice, require_counts

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
POOLINGS: Mapping[str, type[nn.MaxPool2d] | type[nn.AvgPool2d]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


class LeNet(nn.Module):
    """LeNet for images of 32x32, or of 28x28 with a padding of 2."""

    def __init__(self, *, in_channels: int, num_classes: int, padding: int, activation: str, pool: str) -> None:
        """Create the network; with its padding, the first convolution must give 28x28 outputs."""
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        require_choice("activation", activation, tuple(ACTIVATIONS))
        require_choice("pool", pool, tuple(POOLINGS))
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5, padding=padding)
        self.pool1 = POOLINGS[pool](kernel_size=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool2 = POOLINGS[pool](kernel_size=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.activation(self.conv1(x))  # N x 6 x 28 x 28
        x = self.pool1(x)  # N x 6 x 14 x 14
        x = self.activation(self.conv2(x))  # N x 16 x 10 x 10
        x = self.pool2(x)  # N x 16 x 5 x 5
        x = self.flatten(x)  # N x 400
        x = self.activation(self.fc1(x))  # N x 120
        x = self.activation(self.fc2(x))  # N x 84
        logits: Tensor = self.fc3(x)  # N x num_classes
        return logits


class LeNetBN(nn.Module):
    """LeNet for images of 28x28, with batch normalization before each sigmoid."""

    def __init__(self, *, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5, padding=2)
        self.bn1 = BatchNorm(6)
        self.pool1 = nn.AvgPool2d(kernel_size=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.bn2 = BatchNorm(16)
        self.pool2 = nn.AvgPool2d(kernel_size=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.bn3 = BatchNorm(120)
        self.fc2 = nn.Linear(120, 84)
        self.bn4 = BatchNorm(84)
        self.fc3 = nn.Linear(84, num_classes)
        self.activation = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.activation(self.bn1(self.conv1(x)))  # N x 6 x 28 x 28
        x = self.pool1(x)  # N x 6 x 14 x 14
        x = self.activation(self.bn2(self.conv2(x)))  # N x 16 x 10 x 10
        x = self.pool2(x)  # N x 16 x 5 x 5
        x = self.flatten(x)  # N x 400
        x = self.activation(self.bn3(self.fc1(x)))  # N x 120
        x = self.activation(self.bn4(self.fc2(x)))  # N x 84
        logits: Tensor = self.fc3(x)  # N x num_classes
        return logits


def lenet5(*, activation: str = "relu", pool: str = "max", in_channels: int = 1, num_classes: int = 10) -> LeNet:
    """Build LeNet-5 for 32x32 images."""
    return LeNet(in_channels=in_channels, num_classes=num_classes, padding=0, activation=activation, pool=pool)


def lenet(*, activation: str = "relu", in_channels: int = 1, num_classes: int = 10) -> LeNet:
    """Build LeNet for 28x28 images, with average pooling and relu or sigmoid."""
    require_choice("activation", activation, ("relu", "sigmoid"))
    return LeNet(in_channels=in_channels, num_classes=num_classes, padding=2, activation=activation, pool="avg")


ENTRIES = {
    "lenet5": ZooEntry(
        build=lenet5,
        input_shape=(1, 32, 32),
        summary="LeNet-5 on 32x32 digits, any activation and pooling (1998)",
        options={"activation": tuple(ACTIVATIONS), "pool": tuple(POOLINGS), "in_channels": int, "num_classes": int},
    ),
    "lenet": ZooEntry(
        build=lenet,
        input_shape=(1, 28, 28),
        summary="LeNet on 28x28 images with average pooling (1998)",
        options={"activation": ("relu", "sigmoid"), "in_channels": int, "num_classes": int},
    ),
    "lenet_bn": ZooEntry(
        build=LeNetBN,
        input_shape=(1, 28, 28),
        summary="LeNet with batch normalization written from scratch (1998, 2015)",
        options={"in_channels": int, "num_classes": int},
    ),
}
