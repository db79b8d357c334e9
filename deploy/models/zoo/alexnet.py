"""AlexNet: five convolutions and three fully connected layers; winner of the ImageNet challenge of 2012.

Paper: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012.
Input: one gray image of 224x224. Parameters: 46,764,746.

Variants:
    alexnet_gray: the paper's layers for ten classes, without the split over two GPUs and the local response
        normalization.
    The network for color images and 1000 classes is torchvision's `alexnet`.
"""

from __future__ import annotations

from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, he_normal_, require_counts


class AlexNet(nn.Module):
    """AlexNet for images of 224x224."""

    def __init__(self, *, in_channels: int = 1, num_classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__()
        require_counts(in_channels=in_channels, num_classes=num_classes)
        self.conv1 = nn.Conv2d(in_channels, 96, kernel_size=11, stride=4, padding=1)
        self.pool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv2 = nn.Conv2d(96, 256, kernel_size=5, padding=2)
        self.pool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv3 = nn.Conv2d(256, 384, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, kernel_size=3, padding=1)
        self.conv5 = nn.Conv2d(384, 256, kernel_size=3, padding=1)
        self.pool5 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.flatten = nn.Flatten()
        self.fc6 = nn.Linear(256 * 5 * 5, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, num_classes)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, N x num_classes."""
        x = self.relu(self.conv1(x))  # N x 96 x 54 x 54
        x = self.pool1(x)  # N x 96 x 26 x 26
        x = self.relu(self.conv2(x))  # N x 256 x 26 x 26
        x = self.pool2(x)  # N x 256 x 12 x 12
        x = self.relu(self.conv3(x))  # N x 384 x 12 x 12
        x = self.relu(self.conv4(x))
        x = self.relu(self.conv5(x))  # N x 256 x 12 x 12
        x = self.pool5(x)  # N x 256 x 5 x 5
        x = self.flatten(x)  # N x 6400
        x = self.dropout(self.relu(self.fc6(x)))  # N x 4096
        x = self.dropout(self.relu(self.fc7(x)))
        logits: Tensor = self.fc8(x)  # N x num_classes
        return logits


ENTRIES = {
    "alexnet_gray": ZooEntry(
        build=AlexNet,
        input_shape=(1, 224, 224),
        summary="AlexNet on gray images, ten classes (2012)",
        options={"in_channels": int, "num_classes": int, "dropout": float},
    ),
}
