"""Non-maximum suppression in tensors of fixed size, with a batch of pictures."""

from __future__ import annotations

import numpy as np
import torch

from deploy.tasks.operators import greedy

Tensor = torch.Tensor

_SMALLEST = float(np.finfo(np.float32).tiny)


def suppress(boxes: Tensor, labels: Tensor | None, valid: Tensor, iou_threshold: float) -> Tensor:
    """Return which boxes greedy suppression keeps; equal to `torchvision.ops.batched_nms` on every picture.

    Args:
        boxes: [n, k, 4], corners (x1, y1, x2, y2), in falling order of the scores.
        labels: int64 [n, k]; boxes of different labels do not suppress each other. None: all are of one.
        valid: bool [n, k]; which rows are boxes.
        iou_threshold: intersection over union above which the later of two boxes is removed.

    Returns:
        bool [n, k].
    """
    over = overlaps(boxes) > as_float32(iou_threshold)
    if labels is not None:
        over = over & (labels.unsqueeze(2) == labels.unsqueeze(1))
    size = boxes.shape[1]
    later = torch.ones(size, size, dtype=torch.bool, device=boxes.device).triu(1)
    kept: Tensor = greedy(over & later, valid)
    return kept


def overlaps(boxes: Tensor) -> Tensor:
    """Return the intersection over union of every two boxes of a picture, [n, k, k]; 0 where both have no area."""
    left, top, right, bottom = (boxes[..., index].unsqueeze(2) for index in range(4))
    width = torch.minimum(right, right.mT) - torch.maximum(left, left.mT)
    height = torch.minimum(bottom, bottom.mT) - torch.maximum(top, top.mT)
    shared = width.clamp(min=0) * height.clamp(min=0)
    area = (right - left) * (bottom - top)
    return shared / (area + area.mT - shared).clamp(min=_SMALLEST)


def as_float32(threshold: float) -> float:
    """Return the largest float32 that does not exceed the threshold: a float32 exceeds both or neither."""
    nearest = np.float32(threshold)
    return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-1)))


@torch.library.custom_op("deploy::kept_by_class", mutates_args=())
def kept_by_class(boxes: Tensor, labels: Tensor, valid: Tensor, classes: int, iou_threshold: float) -> Tensor:
    """Return what `suppress` returns; in a graph it is ONNX's ``NonMaxSuppression``."""
    return suppress(boxes, labels, valid, iou_threshold)


@kept_by_class.register_fake
def _(boxes: Tensor, labels: Tensor, valid: Tensor, classes: int, iou_threshold: float) -> Tensor:
    return torch.empty_like(valid)
