"""The steps from an image to detections, and which of them are part of a graph."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from deploy.core.errors import UsageError
from deploy.tasks.postprocessing import Postprocessing

Suppression = Literal["fixed", "operator"]
Part = Literal["preprocessing", "postprocessing"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphPipeline:
    """The steps before and after a model.

    Attributes:
        parts: steps that become part of the graph. ``preprocessing``: the graph takes pictures of any size as bytes,
            [batch, height, width, 3]; ``postprocessing``: the graph returns detections of fixed size, see
            `deploy.tasks.detector.Detector`.
        postprocessing: None: of the default thresholds, for the form that the outputs of the model show.
        suppression: ``fixed``: tensors of fixed size, which every target takes; ``operator``: ONNX's
            ``NonMaxSuppression``, which is faster in ONNX Runtime and OpenVINO, and which TensorRT for RTX refuses.
        preprocess: changes to the model's preprocessing, as texts of ``--preprocess``.
        classes: number of classes; None: as many as the model has labels.

    Raises:
        UsageError: there is no such part, or no such form of suppression.
    """

    parts: tuple[Part, ...] = ()
    postprocessing: Postprocessing | None = None
    suppression: Suppression = "fixed"
    preprocess: tuple[str, ...] = ()
    classes: int | None = None

    def __post_init__(self) -> None:
        unknown = next((name for name in self.parts if name not in PARTS), None)
        if unknown is not None:
            raise UsageError(f"the pipeline has no part {unknown!r}; it has {', '.join(PARTS)}.")

        if self.suppression not in get_args(Suppression):
            raise UsageError(f"suppression {self.suppression!r} is not one of {', '.join(get_args(Suppression))}.")

    @property
    def outputs(self) -> Postprocessing | None:
        """The form of the outputs of the graph: detections, if it contains the postprocessing."""
        if "postprocessing" in self.parts:
            return dataclasses.replace(self.postprocessing or Postprocessing(kind="none"), kind="none")
        return self.postprocessing
