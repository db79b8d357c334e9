"""Detections of one picture, from whatever form the outputs of a detector have."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import BackendError
from deploy.tasks.postprocessing import Postprocessing

Outputs = Mapping[str, NDArray[Any]]
"""Outputs of a model by name."""
THRESHOLD = 0.5
"""Pixels whose share of a mask exceeds it belong to the object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """What a detector found in one picture, the highest score first.

    Attributes:
        boxes: float32 [k, 4], corners (x1, y1, x2, y2) in pixels.
        scores: float32 [k].
        labels: int64 [k], indices of classes.
        masks: float32 [k, height, width] in 0..1, how likely a pixel of the input belongs to the object, or None.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)


def postprocessing_of(names: Collection[str]) -> Postprocessing | None:
    """Return the postprocessing that the names of the outputs show, None if they show none.

    ``boxes``, ``scores`` and ``labels`` are detections, ``boxes`` and ``scores`` alone the form ``fcos``, ``logits``
    and ``pred_boxes`` the form ``detr``.
    """
    given = set(names)
    if {"boxes", "scores", "labels"} <= given:
        return Postprocessing(kind="none")
    if {"boxes", "scores"} <= given:
        return Postprocessing(kind="fcos")
    return Postprocessing(kind="detr") if {"logits", "pred_boxes"} <= given else None


def read_detections(
    outputs: Outputs, postprocessing: Postprocessing, size: tuple[int, int], classes: int | None = None
) -> list[Detections]:
    """Return the detections of every picture of a batch; boxes that are suppressed are left out.

    Args:
        outputs: of one run. Of the form ``none``, tensors of fixed size with a ``count`` (see
            `deploy.tasks.detector.Detector`), the ``boxes`` [k, 4], ``scores`` [k] and ``labels`` [k] of one picture,
            or one output [n, k, 6] of corners, score and label. ``masks`` [k, 1, height, width] are in 0..1, and
            ``pred_masks`` [n, q, h, w] of the form ``detr`` are logits of any size.
        postprocessing: the form of the outputs, and which boxes are kept.
        size: height and width of the input in pixels; the form ``detr`` has boxes in 0..1.
        classes: number of classes, if known. Logits of the form ``detr`` with one more end with "no object" and go
            through a softmax; others go through a sigmoid.

    Raises:
        BackendError: the outputs are not detections.
        ModelError: the outputs do not have another form that is named.
    """
    if postprocessing.kind == "none":
        try:
            return _ready(outputs)
        except (KeyError, ValueError, IndexError) as exc:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
            raise BackendError(f"the outputs {shapes} are not detections.") from exc
    import torch

    from deploy.tasks.decoding import candidates

    tensors = {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in outputs.items()}
    boxes, scores = (value.numpy() for value in candidates(tensors, postprocessing, size, classes))
    suppress = postprocessing.kind != "detr"
    masks = tensors.get("pred_masks")
    found = []
    for index, picture in enumerate(zip(boxes, scores, strict=True)):
        item, chosen = _kept(*picture, postprocessing, suppress=suppress)
        if masks is not None:
            logits = torch.nn.functional.interpolate(masks[index, chosen][:, None], size, mode="bilinear")[:, 0]
            item = dataclasses.replace(item, masks=logits.sigmoid().numpy())
        found.append(item)
    return found


def _ready(outputs: Outputs) -> list[Detections]:
    """Read outputs that are detections."""
    if len(outputs) == 1:  # [n, k, 6]: corners, score and label, as YOLOv10 has it
        (rows,) = outputs.values()
        if rows.shape[2:] != (6,):
            raise ValueError
        return [_sorted(item[:, :4], item[:, 4], item[:, 5]) for item in rows]
    boxes, scores, labels, masks = outputs["boxes"], outputs["scores"], outputs["labels"], outputs.get("masks")
    if boxes.ndim == 2:  # torchvision's list for one picture
        return [_sorted(boxes, scores, labels, None if masks is None else masks.reshape(len(boxes), *masks.shape[-2:]))]
    counts = outputs["count"].reshape(-1)
    if masks is not None:
        masks = masks.reshape(*boxes.shape[:2], *masks.shape[-2:])
    return [
        _detections(
            boxes[index, :count],
            scores[index, :count],
            labels[index, :count],
            None if masks is None else masks[index, :count],
        )
        for index, count in enumerate(map(int, counts))
    ]


def _sorted(
    boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], masks: NDArray[np.float32] | None = None
) -> Detections:
    order = np.argsort(-scores, kind="stable")
    return _detections(boxes[order], scores[order], labels[order], None if masks is None else masks[order])


def _detections(
    boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], masks: NDArray[np.float32] | None = None
) -> Detections:
    return Detections(
        boxes=boxes.astype(np.float32).reshape(-1, 4),
        scores=scores.astype(np.float32),
        labels=labels.astype(np.int64),
        masks=None if masks is None else masks.astype(np.float32),
    )


def _kept(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], postprocessing: Postprocessing, *, suppress: bool
) -> tuple[Detections, NDArray[np.int64]]:
    """Return the boxes of one picture that remain, and their candidates; every class of every candidate is one box."""
    flat = scores.reshape(-1)
    above = np.flatnonzero(flat > postprocessing.score_threshold)
    most = postprocessing.candidates if suppress else postprocessing.detections
    chosen = above[np.argsort(-flat[above], kind="stable")][:most]  # stable: of equal scores the lower index first
    candidate, label = np.divmod(chosen, scores.shape[1])
    found = boxes[candidate], flat[chosen], label
    if suppress and len(chosen):
        import torch
        from torchvision.ops import batched_nms

        tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in found]
        kept = batched_nms(*tensors, postprocessing.iou_threshold).numpy()[: postprocessing.detections]
        found, candidate = (found[0][kept], found[1][kept], found[2][kept]), candidate[kept]
    return _detections(*found), candidate
