"""torchvision: classification, segmentation, detection, video and optical flow."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import torch
import torchvision

from deploy.core.errors import UsageError
from deploy.core.model import UNTRAINED, Model, Preprocessing, Weights
from deploy.core.tensors import Dim, TensorSpec
from deploy.models.request import ModelRequest
from deploy.tasks.task import Task

_UNTRACEABLE = "the number of boxes depends on the image, which torch.export does not support"
_DETECTION_SIDE = 320
"""Side in pixels of the traced input of a detector; the detectors resize it to their own size."""


def names() -> list[str]:
    """Return the names of all float models; quantized models are already compiled for one target."""
    return [name for name in torchvision.models.list_models() if not name.startswith("quantized_")]


def summary(name: str) -> str:
    """Return the first sentence of torchvision's documentation of a model."""
    text = inspect.getdoc(torchvision.models.get_model_builder(name)) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    plain = re.sub(r" ?<http[^>]*>|`_*", "", first)
    return re.sub(r"^(The|Constructs?( an?)?) |( as in)?\.?$", "", plain)


def build(name: str, request: ModelRequest) -> Model:
    """Build a model with the weights that its constructor draws."""
    builder = torchvision.models.get_model_builder(name)
    backbone = {"weights_backbone": None} if "weights_backbone" in inspect.signature(builder).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            module = builder(weights=None, **backbone, **request.typed_options())
        except (TypeError, ValueError) as exc:
            raise UsageError(f"torchvision/{name}: {exc}.") from exc
    weights = _default_weights(name)
    recipe = _preprocessing(weights)
    specs, sizes, listed = _inputs(name, module, recipe)
    return Model(
        name=f"torchvision/{name}",
        slug=name,
        module=module.eval(),
        inputs=specs,
        sizes=sizes,
        form=(([spec.name for spec in specs],), {}) if listed else None,
        weights=Weights(source=UNTRAINED, trained=False, seed=request.seed),
        preprocessing=recipe if len(specs) == 1 and len(specs[0].shape) == 4 else None,
        labels=tuple(weights.meta.get("categories", ())) if weights is not None else (),
        task=_task(name),
        untraceable=_UNTRACEABLE if listed else "",
    )


def published(name: str, model: Model) -> tuple[str, str] | None:
    """Return the URL and label of the default weights, or None if there are none."""
    weights = _default_weights(name)
    return (weights.url, f"{type(weights).__name__}.{weights.name}") if weights is not None else None


def _default_weights(name: str) -> Any:
    try:
        return torchvision.models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):
        return None


def _family(name: str) -> str:
    """Return the module of torchvision.models that a model is from: ``detection``, or ``resnet``."""
    builder = torchvision.models.get_model_builder(name)
    return str(builder.__module__).removeprefix("torchvision.models.").partition(".")[0]


def _task(name: str) -> Task | None:
    family = _family(name)
    if family == "detection":
        return "instance-segmentation" if name.startswith("mask") else "detection"
    if family == "optical_flow":
        return None
    return "semantic-segmentation" if family == "segmentation" else "classification"


def _inputs(
    name: str, module: torch.nn.Module, recipe: Preprocessing | None
) -> tuple[tuple[TensorSpec, ...], dict[str, int], bool]:
    """Return the inputs, a size for each symbol, and whether the inputs are passed as a list."""
    family = _family(name)
    if family == "detection":
        shape: tuple[Dim, ...] = (3, _DETECTION_SIDE, _DETECTION_SIDE)
        return (TensorSpec(name="image", dtype="float32", shape=shape, bounds=(0, 1)),), {}, True
    if family == "video":
        frames = 16 if name.startswith(("r3d", "mc3", "r2plus1d", "s3d", "mvit")) else 32
        side = 112 if name.startswith(("r3d", "mc3", "r2plus1d")) else 224
        shape = ("batch", 3, frames, side, side)
        return (TensorSpec(name="video", dtype="float32", shape=shape),), {"batch": 2}, False
    if family == "optical_flow":
        shape = ("batch", 3, "height", "width")
        specs = tuple(TensorSpec(name=item, dtype="float32", shape=shape) for item in ("image1", "image2"))
        return specs, {"batch": 2, "height": 128, "width": 136}, False
    published_side = recipe.crop[0] if recipe and family != "segmentation" else 224
    side = getattr(module, "image_size", None) or published_side
    spec = TensorSpec(name="input", dtype="float32", shape=("batch", 3, "height", "width"))
    return (spec,), {"batch": 2, "height": int(side), "width": int(side)}, False


def _preprocessing(weights: Any) -> Preprocessing | None:
    recipe: Any = weights.transforms() if weights is not None else None
    if not hasattr(recipe, "mean"):
        return None
    resize = list(getattr(recipe, "resize_size", []) or [])
    crop = list(getattr(recipe, "crop_size", []) or resize)
    if not crop:
        return None
    return Preprocessing(
        crop=(crop[0], crop[-1]),
        resize=resize[0] if resize and hasattr(recipe, "crop_size") else None,
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=getattr(recipe.interpolation, "value", "bilinear"),
    )
