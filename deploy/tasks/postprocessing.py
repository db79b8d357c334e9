"""From the raw outputs of a detector to detections: which form the outputs have, and which boxes are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from deploy.core.errors import UsageError
from deploy.core.plain import from_plain, to_plain

Kind = Literal["auto", "yolo", "fcos", "detr", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Postprocessing:
    """How the outputs of a detector become detections.

    Boxes are corners (x1, y1, x2, y2) or centers and sizes (cx, cy, w, h). n is the batch, a the number of
    candidates, c the number of classes.

    Attributes:
        kind: the form of the outputs.
            ``yolo``: one output [n, 4 + c, a] of centers and sizes in pixels and scores in 0..1 (YOLOv8, YOLO11), or
            [n, a, 5 + c] with an objectness that multiplies the scores (YOLOv5).
            ``fcos``: ``boxes`` [n, a, 4], corners in pixels, and ``scores`` [n, a, c] in 0..1.
            ``detr``: ``logits`` [n, q, c] or [n, q, c + 1], and ``pred_boxes`` [n, q, 4], centers and sizes in 0..1;
            no boxes are suppressed.
            ``none``: the outputs are detections.
            ``auto``: the one that the names of the outputs show.
        score_threshold: scores at or below it are dropped.
        iou_threshold: of two boxes of one class whose intersection over union exceeds it, the lower score is dropped.
        candidates: how many of the highest scores of a picture the suppression considers.
        detections: how many boxes of a picture remain at most.

    Raises:
        UsageError: a value is out of range.
    """

    kind: Kind
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    candidates: int = 300
    detections: int = 100

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"postprocessing {self.kind!r} is not one of {', '.join(KINDS)}.")
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"postprocessing: {name} {getattr(self, name)} is not in 0..1.")
        for name in ("candidates", "detections"):
            if getattr(self, name) < 1:
                raise UsageError(f"postprocessing: {name} {getattr(self, name)} is not at least 1.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        values: dict[str, Any] = to_plain(self)
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Postprocessing:
        """Build a postprocessing from the values of `to_dict`.

        Raises:
            ValueError: a field is missing or has the wrong type; unknown ones are ignored.
            UsageError: a value is out of range.
        """
        return from_plain(cls, dict(data))
