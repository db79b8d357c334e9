"""Make the steps before and after a model part of it, so that they are exported, checked and converted with it."""

from __future__ import annotations

import dataclasses

import torch

from deploy.core.errors import UsageError
from deploy.core.model import Model, Preprocessing
from deploy.core.tensors import TensorSpec
from deploy.models.calling import ones
from deploy.models.preprocessing import check_preprocessing, override
from deploy.support.state import unchanged
from deploy.tasks.decoding import candidates
from deploy.tasks.detections import postprocessing_of
from deploy.tasks.detector import Detector
from deploy.tasks.pictures import Pictures
from deploy.tasks.pipeline import GraphPipeline, Suppression
from deploy.tasks.postprocessing import Postprocessing


def in_graph(model: Model, pipeline: GraphPipeline | None) -> Model:
    """Return a model whose module contains the parts of a pipeline.

    Raises:
        UsageError: the outputs do not show what they are, or have another number of classes than the model.
        ModelError: the outputs do not have the declared form.
    """
    if pipeline is None:
        return model
    if "postprocessing" in pipeline.parts:
        from deploy.models import torchvision_detector  # takes seconds, as torchvision imports torch._dynamo

        if torchvision_detector.has_keypoints(model.module):
            raise UsageError(f"{model.name}: postprocessing in the graph has no form for keypoints.")
        if torchvision_detector.has_masks(model.module) and "preprocessing" in pipeline.parts:
            raise UsageError(
                f"{model.name}: preprocessing in the graph has no form for masks, which have the size of the picture.",
                "--with postprocessing",
            )
        if torchvision_detector.applies(model.module):
            model = _batched(model, pipeline)
        else:
            model = _with_postprocessing(model, pipeline)
    if "preprocessing" in pipeline.parts:
        model = _with_preprocessing(model, pipeline)
    return model


class FromPictures(torch.nn.Module):
    """A model that takes pictures of any size; if it returns detections, in pixels of the picture.

    Args:
        model: takes one batch of images.
        recipe: from a picture to the input of the model.
        detects: whether the outputs are detections.
    """

    def __init__(self, model: Model, recipe: Preprocessing, detects: bool) -> None:
        super().__init__()
        self.pictures, self.model = Pictures(recipe), model.module
        self.detects = detects
        self._inner = model

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the model on pictures, uint8 [n, height, width, 3], and return its outputs by name."""
        prepared, offset, scale = self.pictures(pictures)
        positional, keyword = self._inner.arguments({self._inner.inputs[0].name: prepared})
        outputs = self._inner.name_outputs(self.model(*positional, **keyword))
        if self.detects:
            sides = torch.stack([torch.scalar_tensor(pictures.shape[axis]) for axis in (2, 1, 2, 1)])
            boxes = torch.minimum(((outputs["boxes"] - offset) * scale).clamp(min=0), sides)
            number = torch.arange(boxes.shape[1])
            valid = number < outputs["count"].unsqueeze(1)
            outputs["boxes"] = torch.where(valid.unsqueeze(2), boxes, 0.0)
        return outputs


def _with_preprocessing(model: Model, pipeline: GraphPipeline) -> Model:
    recipe = override(model.preprocessing, pipeline.preprocess)
    if recipe is None:
        raise UsageError(
            f"{model.name} has no preprocessing that could be part of the graph.",
            "give it: --preprocess crop=640,640 --preprocess mean=0,0,0 --preprocess std=1,1,1, "
            "and --preprocess letterbox=114 where pictures keep their shape",
        )
    check_preprocessing(recipe, model.inputs, model.name)
    module = FromPictures(model, recipe, "postprocessing" in pipeline.parts).eval()
    height, width = recipe.crop
    shape = f"letterboxed to {height} × {width}" if recipe.letterbox is not None else f"stretched to {height} × {width}"
    return model.replace(
        module=module,
        inputs=(TensorSpec(name="image", dtype="uint8", shape=("batch", "height", "width", 3)),),
        sizes={"batch": 2, "height": height + height // 4, "width": width + width // 2},
        dynamic=("batch", "height", "width"),
        form=None,
        outputs=(),
        preprocessing=None,
        notes=(*model.notes, f"preprocessing in the graph: bytes [batch, height, width, 3], {shape}"),
    )


def _batched(model: Model, pipeline: GraphPipeline) -> Model:
    """Return a detector of torchvision for a batch of pictures."""
    from deploy.models import torchvision_detector

    if pipeline.suppression != "fixed":
        raise UsageError(f"{model.name}: suppression is in tensors of fixed size.", "remove --suppression")
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
        preprocessing=Preprocessing(
            crop=(int(picture.shape[-2]), int(picture.shape[-1])), mean=(0.0,) * 3, std=(1.0,) * 3, letterbox=0
        ),
        notes=(*model.notes, note),
    )


def _with_postprocessing(model: Model, pipeline: GraphPipeline) -> Model:
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
    detector = Detector(model.module, model.name_outputs, postprocessing, classes, pipeline.suppression).eval()
    note = _described(postprocessing, pipeline.suppression)
    return model.replace(module=detector, outputs=(), notes=(*model.notes, note))


def _check_classes(
    model: Model, outputs: dict[str, torch.Tensor], postprocessing: Postprocessing, classes: int | None
) -> None:
    _, scores = candidates(outputs, postprocessing, (1, 1), classes)
    if classes is not None and scores.shape[2] != classes:
        raise UsageError(f"{model.name}: it has {classes} class names, and its outputs {scores.shape[2]} classes.")


def _described(postprocessing: Postprocessing, suppression: Suppression) -> str:
    """Return what a graph does with the outputs of a model, for a note."""
    if postprocessing.kind in ("detr", "none"):
        return f"postprocessing in the graph: the {postprocessing.detections} highest scores, without suppression"
    form = "in tensors of fixed size" if suppression == "fixed" else "by the operator NonMaxSuppression"
    return (
        f"postprocessing in the graph: suppression {form}, {postprocessing.candidates} candidates, "
        f"{postprocessing.detections} detections"
    )
