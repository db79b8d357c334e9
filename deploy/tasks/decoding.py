"""From the raw outputs of a detector to candidates: boxes as corners in pixels, and a score for every class."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from deploy.core.errors import ModelError
from deploy.tasks.postprocessing import Postprocessing

Tensor = torch.Tensor


def candidates(
    outputs: Mapping[str, Tensor], postprocessing: Postprocessing, size: tuple[int, int], classes: int | None
) -> tuple[Tensor, Tensor]:
    """Return the boxes [n, a, 4], corners (x1, y1, x2, y2) in pixels, and the scores [n, a, c].

    Args:
        outputs: of the model, in the form that ``postprocessing`` names.
        postprocessing: of any kind but ``none``.
        size: height and width of the input in pixels.
        classes: number of classes, if known. Logits of the form ``detr`` with one more end with "no object" and go
            through a softmax; others go through a sigmoid.

    Raises:
        ModelError: the outputs do not have the form.
    """
    try:
        return _FORMS[postprocessing.kind](outputs, size, classes)
    except (KeyError, ValueError) as exc:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
        raise ModelError(f"the outputs {shapes} do not have the form {postprocessing.kind!r}.") from exc


def _fcos(outputs: Mapping[str, Tensor], size: tuple[int, int], classes: int | None) -> tuple[Tensor, Tensor]:
    boxes, scores = outputs["boxes"], outputs["scores"]
    if boxes.dim() != 3 or boxes.shape[2] != 4 or scores.dim() != 3:
        raise ValueError
    return boxes, scores


def _yolo(outputs: Mapping[str, Tensor], size: tuple[int, int], classes: int | None) -> tuple[Tensor, Tensor]:
    (raw,) = (value for value in outputs.values() if value.dim() == 3)
    if raw.shape[1] < raw.shape[2]:  # [n, 4 + c, a]: fewer classes than candidates
        raw = raw.mT
        return corners(raw[..., :4]), raw[..., 4:]
    return corners(raw[..., :4]), raw[..., 5:] * raw[..., 4:5]


def _detr(outputs: Mapping[str, Tensor], size: tuple[int, int], classes: int | None) -> tuple[Tensor, Tensor]:
    logits, boxes = outputs["logits"], outputs["pred_boxes"]
    no_object = classes is not None and logits.shape[-1] == classes + 1
    scores = logits.softmax(-1)[..., :-1] if no_object else logits.sigmoid()
    height, width = size
    scale = boxes.new_tensor([1.0, 0.0, 1.0, 0.0]) * width + boxes.new_tensor([0.0, 1.0, 0.0, 1.0]) * height
    return corners(boxes) * scale, scores


def corners(boxes: Tensor) -> Tensor:
    """Turn centers and sizes (cx, cy, w, h) into corners (x1, y1, x2, y2), along the last axis."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], dim=-1)


_FORMS = {"fcos": _fcos, "yolo": _yolo, "detr": _detr}
