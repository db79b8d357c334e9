"""Make the steps before and after a model part of it, so that they are exported, checked and converted with it."""

from __future__ import annotations

import dataclasses

import torch

from deploy.core.errors import UsageError
from deploy.core.model import Model
from deploy.core.tensors import TensorSpec
from deploy.models import torchvision_detector
from deploy.models.calling import ones
from deploy.support.state import unchanged
from deploy.tasks.decoding import candidates
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
        if torchvision_detector.applies(model.module):
            model = _batched(model, pipeline)
        else:
            model = _with_postprocessing(model, pipeline)
    return model


def _batched(model: Model, pipeline: Pipeline) -> Model:
    """Return a detector of torchvision for a batch of pictures."""
    own = Postprocessing(kind="auto", candidates=torchvision_detector.CANDIDATES)
    given = pipeline.postprocessing or own
    if dataclasses.replace(given, candidates=own.candidates) != own:
        raise UsageError(
            f"{model.name}: its form, thresholds and number of detections are those that torchvision gives it.",
            "change them where it is built: -o score_thresh=…, -o box_score_thresh=…",
        )
    (picture,) = model.inputs
    detector = torchvision_detector.BatchedDetector(model.module, given.candidates).eval()
    spec = TensorSpec(name=picture.name, dtype=picture.dtype, shape=("batch", *picture.shape), bounds=picture.bounds)
    note = (
        "torchvision's detector for a batch of pictures of one size, with suppression in tensors of fixed size: "
        f"{given.candidates} candidates"
    )
    return model.replace(
        module=detector,
        inputs=(spec,),
        sizes={**model.sizes, "batch": 2},
        form=None,
        outputs=(),
        untraceable="",
        notes=(*model.notes, note),
    )


def _with_postprocessing(model: Model, pipeline: Pipeline) -> Model:
    with unchanged(model.module), torch.inference_mode():
        outputs = model.call(ones(model))
    postprocessing = pipeline.postprocessing or Postprocessing(kind="auto")
    if postprocessing.kind == "auto":
        shown = postprocessing_of(outputs)
        if shown is None or not any(value.dim() == 3 for value in outputs.values()):
            raise UsageError(
                f"{model.name}: the outputs {', '.join(outputs)} do not show what they are.",
                "name their form: --postprocess yolo|fcos|detr|none",
            )
        postprocessing = dataclasses.replace(postprocessing, kind=shown.kind)
    classes = pipeline.classes or len(model.labels) or None
    if postprocessing.kind != "none":
        _check_classes(model, outputs, postprocessing, classes)
    detector = Detector(model.module, model.name_outputs, postprocessing, classes).eval()
    return model.replace(module=detector, outputs=(), notes=(*model.notes, _described(postprocessing)))


def _check_classes(
    model: Model, outputs: dict[str, torch.Tensor], postprocessing: Postprocessing, classes: int | None
) -> None:
    _, scores = candidates(outputs, postprocessing, (1, 1), classes)
    if classes is not None and scores.shape[2] != classes:
        raise UsageError(f"{model.name}: it has {classes} class names, and its outputs {scores.shape[2]} classes.")


def _described(postprocessing: Postprocessing) -> str:
    """Return what a graph does with the outputs of a model, for a note."""
    if postprocessing.kind in ("detr", "none"):
        return f"postprocessing in the graph: the {postprocessing.detections} highest scores, without suppression"
    return (
        f"postprocessing in the graph: suppression in tensors of fixed size, {postprocessing.candidates} candidates, "
        f"{postprocessing.detections} detections"
    )
