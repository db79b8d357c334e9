"""Networks that choose: detections by score, proposals for a second stage, classes of pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import deploy

SIDE = 64
INPUTS = f"images:batch,3,{SIDE},{SIDE}:float32:0..1"


class Candidates(nn.Module):
    """64 boxes, most of them with nearly equal scores; ``gain`` multiplies the weights of the head."""

    def __init__(self, gain: float = 12.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(16, 7, 1)
        with torch.no_grad():
            self.head.weight.mul_(gain)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.head(self.body(images))
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        center = torch.stack([columns, rows]).float() * 8 + 4 + y[:, :2].tanh() * 8
        half = (y[:, 2:4].tanh() + 1.5) * 7
        boxes, scores = torch.cat([center - half, center + half], 1), (y[:, 4:] + 1).sigmoid()
        return {"boxes": boxes.flatten(2).mT, "scores": scores.flatten(2).mT}


class Staged(Candidates):
    """Proposals by score, and layers that look at them."""

    def __init__(self, gain: float = 12.0) -> None:
        super().__init__(gain)
        self.second = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().forward(images)
        _, index = found["scores"].amax(2).topk(16)
        boxes = found["boxes"].gather(1, index.unsqueeze(2).expand(-1, -1, 4))
        return {"boxes": boxes, "scores": self.second(boxes / SIDE).sigmoid()}


class Classes(nn.Module):
    """The class of every pixel, as integers only."""

    def __init__(self, gain: float = 4.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 4, 3, 1, 1))
        with torch.no_grad():
            self.body[2].weight.mul_(gain)

    def forward(self, images: torch.Tensor) -> Any:
        return self.body(images).argmax(1)


class Both(Classes):
    """The best class of every pixel and its score."""

    def forward(self, images: torch.Tensor) -> Any:
        score, index = self.body(images).softmax(1).topk(1, 1)
        return score, index


def seeded(kind: type[nn.Module], **options: float) -> nn.Module:
    torch.manual_seed(1)
    return kind(**options).eval()


def selecting(kind: type[nn.Module]) -> dict[str, Any]:
    """Return the options of an export with which the file of `Candidates` returns detections; none for the others."""
    if kind is not Candidates:
        return {}
    shown = deploy.Postprocessing(kind="fcos", score_threshold=0.3, iou_threshold=0.4, candidates=60, detections=20)
    return {"pipeline": deploy.GraphPipeline(parts=("postprocessing",), postprocessing=shown)}
