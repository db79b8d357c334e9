"""Suppression in tensors of fixed size equals greedy suppression."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import batched_nms

from deploy.tasks.suppression import suppress

SIZE = 48
THRESHOLDS = (0.5, 0.3, 0.45, 0.6, 0.7, 0.0, 1.0, 0.1)


def _case(kind: str, count: int, generator: torch.Generator) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 30], 1)
    repeated = boxes[torch.randint(0, max(1, count // 4), (count,), generator=generator)]
    if kind == "whole":  # overlaps that are exactly a threshold
        return boxes.round()
    if kind == "duplicates":
        return repeated
    if kind == "clusters":
        moved = repeated + torch.randn(count, 4, generator=generator)
        return torch.cat([torch.minimum(moved[:, :2], moved[:, 2:]), torch.maximum(moved[:, :2], moved[:, 2:])], 1)
    if kind == "empty":
        boxes[::3, 2:] = boxes[::3, :2]
        boxes[1::5, 2] = boxes[1::5, 0]
    if kind == "chain":  # every box removes the next one
        boxes = torch.tensor([0.0, 0.0, 10.0, 10.0]) + torch.arange(count).reshape(-1, 1) * torch.tensor([3.0, 0, 3, 0])
    return boxes


@pytest.mark.parametrize("kind", ["spread", "whole", "duplicates", "clusters", "empty", "chain"])
@pytest.mark.parametrize("classes", [1, 3])
def test_equals_greedy_suppression(kind: str, classes: int) -> None:
    generator = torch.Generator().manual_seed(len(kind) * 10 + classes)
    cases = 840  # x 12 = 10,080
    boxes = torch.zeros(cases, SIZE, 4)
    labels = torch.randint(0, classes, (cases, SIZE), generator=generator)
    counts = torch.randint(0, SIZE + 1, (cases,), generator=generator)
    for case, count in enumerate(counts.tolist()):
        boxes[case, :count] = _case(kind, count, generator)
    valid = torch.arange(SIZE) < counts.unsqueeze(1)
    scores = torch.linspace(1, 0.5, SIZE)  # boxes are in the order of their scores, ties included
    scores = (scores * 12).round() / 12
    for number, threshold in enumerate(THRESHOLDS):
        chosen = slice(number, cases, len(THRESHOLDS))
        found = suppress(boxes[chosen], labels[chosen] if classes > 1 else None, valid[chosen], threshold)
        for kept, own, label, count in zip(found, boxes[chosen], labels[chosen], counts[chosen].tolist(), strict=True):
            wanted = batched_nms(own[:count], scores[:count], label[:count], threshold)
            assert kept.nonzero().flatten().tolist() == wanted.tolist()


def test_one_chain_as_long_as_the_candidates() -> None:
    boxes = _case("chain", 300, torch.Generator())
    kept = suppress(boxes.unsqueeze(0), None, torch.ones(1, 300, dtype=torch.bool), 0.5)
    assert kept[0].nonzero().flatten().tolist() == list(range(0, 300, 2))
