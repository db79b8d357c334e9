"""Make the steps before and after a model part of it, so that they are exported, checked and converted with it."""

from __future__ import annotations

import dataclasses

import torch

from deploy.core.errors import UsageError
from deploy.core.model import Model
from deploy.models.calling import ones
from deploy.support.state import unchanged
from deploy.tasks.detections import postprocessing_of
from deploy.tasks.detector import Detector
from deploy.tasks.pipeline import Pipeline
from deploy.tasks.postprocessing import Postprocessing


def in_graph(model: Model, pipeline: Pipeline | None) -> Model:
    """Return a model whose module contains the parts of a pipeline.

    Raises:
        UsageError: the outputs do not show what they are, or have another number of classes than the model.
        ModelError: the outputs do not have the declared form.
    """
    if pipeline is None:
        return model
    if "postprocessing" in pipeline.parts:
        model = _with_postprocessing(model, pipeline)
    return model


def _with_postprocessing(model: Model, pipeline: Pipeline) -> Model:
    with unchanged(model.module), torch.inference_mode():
        outputs = model.call(ones(model))
    postprocessing = pipeline.postprocessing or Postprocessing(kind="auto")
    if postprocessing.kind == "auto":
        shown = postprocessing_of(outputs)
        postprocessing = dataclasses.replace(postprocessing, kind=shown.kind if shown else "auto")
    if postprocessing.kind == "auto":
        raise UsageError(
            f"{model.name}: the outputs {', '.join(outputs)} do not show what they are.",
            "name their form: --postprocess yolo|fcos|detr|none",
        )
    classes = pipeline.classes or len(model.labels) or None
    detector = Detector(model.module, model.name_outputs, postprocessing, classes).eval()
    return model.replace(module=detector, outputs=(), notes=(*model.notes, described(postprocessing)))


def described(postprocessing: Postprocessing) -> str:
    """Return what a graph does with the outputs of a model, for a note."""
    if postprocessing.kind in ("detr", "none"):
        return f"postprocessing in the graph: the {postprocessing.detections} highest scores, without suppression"
    return (
        f"postprocessing in the graph: suppression in tensors of fixed size, {postprocessing.candidates} candidates, "
        f"{postprocessing.detections} detections"
    )
