"""A detector with its postprocessing as one module: what goes into the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from deploy.core.errors import ModelError
from deploy.onnx_graph.topk import topk
from deploy.tasks.decoding import candidates
from deploy.tasks.operators import quotient
from deploy.tasks.pipeline import Suppression
from deploy.tasks.postprocessing import Postprocessing
from deploy.tasks.suppression import kept_by_class, suppress

Tensor = torch.Tensor


class Detector(torch.nn.Module):
    """A model whose outputs become detections of fixed size.

    The result has ``boxes`` [n, k, 4], corners (x1, y1, x2, y2) in pixels of the input, ``scores`` [n, k] in falling
    order, ``labels`` int64 [n, k] and ``count`` int64 [n]. k is ``postprocessing.detections``, or the number of
    candidates if that is smaller. Rows from ``count`` on are 0.

    Args:
        model: the module that is called; its parameters keep their names below ``model.``.
        outputs: names the result of the module, see `deploy.core.model.Model.name_outputs`.
        postprocessing: the form of these outputs, and which boxes are kept.
        classes: number of classes, if known.
        suppression: its form in a graph, see `deploy.tasks.pipeline.GraphPipeline`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        outputs: Callable[[Any], Mapping[str, Tensor]],
        postprocessing: Postprocessing,
        classes: int | None = None,
        suppression: Suppression = "fixed",
    ) -> None:
        super().__init__()
        self.model = model
        self.postprocessing, self.classes, self.suppression = postprocessing, classes, suppression
        self._outputs = outputs

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run the model and return its detections; the size of the input is that of the first argument [n, 3, h, w]."""
        found = self._outputs(self.model(*args, **kwargs))
        if self.postprocessing.kind == "none":
            return ready(found, self.postprocessing)
        pictures = next(item for item in (*args, *kwargs.values()) if isinstance(item, Tensor) and item.dim() == 4)
        boxes, scores = candidates(found, self.postprocessing, (pictures.shape[2], pictures.shape[3]), self.classes)
        return select(boxes, scores, self.postprocessing, self.suppression)


def select(
    boxes: Tensor, scores: Tensor, postprocessing: Postprocessing, suppression: Suppression = "fixed"
) -> dict[str, Tensor]:
    """Return detections of fixed size from candidates; every class of every candidate is one box.

    Args:
        boxes: [n, a, 4], corners (x1, y1, x2, y2).
        scores: [n, a, c].
        postprocessing: of the kind ``detr`` suppresses nothing.
        suppression: its form in a graph.
    """
    suppressed = postprocessing.kind != "detr"
    classes = scores.shape[2]
    best, index = _highest(scores.flatten(1), postprocessing.candidates if suppressed else postprocessing.detections)
    row = quotient(index, classes)
    labels = index - row * classes
    boxes = rows(boxes, row)
    valid = best > postprocessing.score_threshold
    if suppressed:
        if suppression == "operator":
            valid = kept_by_class(boxes, labels, valid, classes, postprocessing.iou_threshold)
        else:
            valid = suppress(boxes, None if classes == 1 else labels, valid, postprocessing.iou_threshold)
        boxes, best, labels, valid = take(boxes, best, labels, valid, postprocessing.detections)
    return padded(boxes, best, labels, valid)


def ready(outputs: Mapping[str, Tensor], postprocessing: Postprocessing) -> dict[str, Tensor]:
    """Return detections of fixed size from one output [n, k, 6] of corners, score and label, as YOLOv10 has it.

    Raises:
        ModelError: the outputs do not have this form.
    """
    wide = [value for value in outputs.values() if value.dim() == 3 and value.shape[2] == 6]
    if len(wide) != 1 or len(outputs) != 1:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
        raise ModelError(f"the outputs {shapes} are not one output [n, k, 6] of boxes, scores and labels.")
    best, order = _highest(wide[0][..., 4], postprocessing.detections)
    found = rows(wide[0], order)
    return padded(found[..., :4], best, found[..., 5].long(), best > postprocessing.score_threshold)


def rows(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows [n, k, d] of values [n, a, d] that an index [n, k] names."""
    return values.gather(1, index.unsqueeze(2).expand(-1, -1, values.shape[2]))


def take(
    boxes: Tensor, scores: Tensor, labels: Tensor, kept: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the first rows of those that are kept, at most ``most``, followed by others that are not valid.

    Returns:
        Boxes, scores, labels, and which rows are valid.
    """
    best, order = _highest(torch.where(kept, scores, -1.0), most)
    return rows(boxes, order), best, labels.gather(1, order), kept.gather(1, order)


def padded(boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Return detections of which the rows that are not valid, at the end, are 0."""
    return {
        "boxes": torch.where(valid.unsqueeze(2), boxes, 0.0),
        "scores": torch.where(valid, scores, 0.0),
        "labels": torch.where(valid, labels, 0),
        "count": valid.sum(1),
    }


def _highest(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the highest scores [n, k] in falling order and their indices; k is at most the number of scores."""
    size = scores.shape[1]
    if not isinstance(size, int):  # a size that is not known before the run: enough scores for k
        scores, size = torch.cat([scores, scores.new_full((1, most), -1.0).expand(scores.shape[0], -1)], 1), most
    values, indices = topk(scores, min(most, size))
    return values, indices
