"""A small FCOS: a detector without anchors, which predicts a box and class scores at every position of a grid.

Papers: Tian, Shen, Chen, He, "FCOS: Fully Convolutional One-Stage Object Detection", 2019; the scores are trained to be
the overlap of the box, as in Li et al., "Generalized Focal Loss", 2020, which replaces the centerness of FCOS; the
overlap of the boxes is trained as in Rezatofighi et al., "Generalized Intersection over Union", 2019.
Input: one colored image of 128x128, any multiple of 16 works. Parameters: 429,080 with four classes.

The network returns every candidate: 1,280 boxes at 128x128. Which of them are detections, `deploy.tasks` decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy.models.zoo_entry import ZooEntry, require_counts

STRIDES = (4, 8)
"""Pixels between two positions of each grid."""
LARGEST = (24.0, float("inf"))
"""Longest side in pixels of the boxes that each grid predicts; longer ones belong to the next grid."""
RADIUS = 1.5
"""A position predicts a box if it is in the box and within so many strides of the center of the box."""
PRIOR = 0.01
"""Score of every candidate before training: most show nothing."""
BOX_WEIGHT = 2.0
"""Weight of the loss of boxes relative to that of scores."""


def conv(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with batch normalization and relu."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two convolutions whose result is added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels), conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        result: Tensor = x + self.conv2(self.conv1(x))
        return result


class FCOSSmall(nn.Module):
    """A small FCOS with two grids, of 4 and 8 pixels."""

    def __init__(self, *, num_classes: int = 4, in_channels: int = 3) -> None:
        super().__init__()
        require_counts(num_classes=num_classes, in_channels=in_channels)
        self.stem = nn.Sequential(conv(in_channels, 16, stride=2), conv(16, 32, stride=2), Residual(32))
        self.stage1 = nn.Sequential(conv(32, 64, stride=2), Residual(64))
        self.stage2 = nn.Sequential(conv(64, 96, stride=2), Residual(96))
        self.lateral0, self.lateral1, self.lateral2 = (nn.Conv2d(width, 64, 1) for width in (32, 64, 96))
        self.tower = nn.Sequential(conv(64, 64), conv(64, 64))  # both grids share the head
        self.score = nn.Conv2d(64, num_classes, 3, padding=1)
        self.distance = nn.Conv2d(64, 4, 3, padding=1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.constant_(self.score.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return ``boxes`` [N, A, 4], corners in pixels, and ``scores`` [N, A, num_classes] in 0..1."""
        boxes, logits = self.candidates(x)
        # not sigmoid(): that of ONNX Runtime is exact to 1e-7, which is much of a small score
        return {"boxes": boxes, "scores": 1 / (1 + torch.exp(-logits))}

    def candidates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes [N, A, 4] and logits [N, A, num_classes] at all positions, the fine grid first."""
        fine = self.stem(x)  # N x 32 x H/4 x W/4
        middle = self.stage1(fine)  # N x 64 x H/8 x W/8
        coarse = self.stage2(middle)  # N x 96 x H/16 x W/16
        middle = self.lateral1(middle) + F.interpolate(self.lateral2(coarse), scale_factor=2.0)
        fine = self.lateral0(fine) + F.interpolate(middle, scale_factor=2.0)
        boxes, logits = [], []
        for stride, features in zip(STRIDES, (fine, middle), strict=True):
            shared = self.tower(features)
            distance = F.softplus(self.distance(shared)).flatten(2).transpose(1, 2) * stride  # left, top, right, bottom
            center = positions(features.shape[-2], features.shape[-1], stride).to(x)
            boxes.append(torch.cat([center - distance[..., :2], center + distance[..., 2:]], dim=2))
            logits.append(self.score(shared).flatten(2).transpose(1, 2))
        return torch.cat(boxes, dim=1), torch.cat(logits, dim=1)

    def loss(self, x: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Return the training loss of images, given the boxes [k, 4] and labels [k] of each."""
        from torchvision.ops import generalized_box_iou_loss  # takes seconds, as it imports torch._dynamo

        predicted, logits = self.candidates(x)
        grids = [(x.shape[-2] // stride, x.shape[-1] // stride, stride) for stride in STRIDES]
        assigned = torch.stack([assign(grids, *truth) for truth in zip(boxes, labels, strict=True)])
        target, label = assigned[..., :4], assigned[..., 4].long()
        positive = label >= 0
        count = max(1, int(positive.sum()))
        overlap_loss = generalized_box_iou_loss(predicted[positive], target[positive], reduction="none")
        overlap = overlaps(predicted[positive].detach(), target[positive])
        quality = torch.zeros_like(logits)
        quality[positive] = F.one_hot(label[positive], logits.shape[-1]).to(logits) * overlap[:, None]
        weight = (quality - logits.detach().sigmoid()).abs() ** 2
        score_loss = F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * weight
        total: Tensor = (score_loss.sum() + BOX_WEIGHT * overlap_loss.sum()) / count
        return total


def positions(height: int, width: int, stride: int) -> Tensor:
    """Return the centers (x, y) of the cells of a grid in pixels, row by row, [height * width, 2]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride


def assign(grids: Sequence[tuple[int, int, int]], boxes: Tensor, labels: Tensor) -> Tensor:
    """Return the box and the label that every position has to predict, [A, 5]; the label -1 stands for nothing.

    A position in several boxes predicts the smallest of them.
    """
    parts, smallest = [], 0.0
    for (height, width, stride), largest in zip(grids, LARGEST, strict=True):
        center = positions(height, width, stride).to(boxes)
        side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
        offset = (center[:, None] - (boxes[:, :2] + boxes[:, 2:])[None] / 2).abs().amax(dim=2)
        inside = ((center[:, None] > boxes[:, :2]) & (center[:, None] < boxes[:, 2:])).all(dim=2)
        fits = inside & (offset < RADIUS * stride) & (side > smallest) & (side <= largest)
        part = torch.full((len(center), 5), -1.0).to(boxes)
        if len(boxes):
            area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
            least, index = torch.where(fits, area, float("inf")).min(dim=1)
            found = torch.isfinite(least)
            part[found] = torch.cat([boxes, labels[:, None].to(boxes)], dim=1)[index[found]]
        parts.append(part)
        smallest = largest
    return torch.cat(parts)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of each pair of boxes, [k]."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (first, second)]
    return common / (areas[0] + areas[1] - common)


ENTRIES = {
    "fcos_small": ZooEntry(
        build=FCOSSmall,
        input_shape=(3, 128, 128),
        summary="FCOS, a detector without anchors, small (2019)",
        options={"num_classes": int, "in_channels": int},
        task="detection",
    ),
}
