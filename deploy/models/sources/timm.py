"""timm, if it is installed (extra ``timm``)."""

from __future__ import annotations

import warnings
from typing import Any

import timm

from deploy.core.errors import UsageError
from deploy.core.model import UNTRAINED, Model, Preprocessing, Weights
from deploy.core.tensors import TensorSpec
from deploy.models.request import ModelRequest


def names() -> list[str]:
    """Return the names of all architectures."""
    return list(timm.list_models())


def summary(name: str) -> str:
    """Return an empty text: timm has no descriptions of its architectures."""
    return ""


def build(name: str, request: ModelRequest) -> Model:
    """Build a model with the weights that its constructor draws."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # exportable: timm then uses the variants of layers that are made for export
            module = timm.create_model(name, pretrained=False, exportable=True, **request.typed_options())
        except (TypeError, ValueError, RuntimeError) as exc:
            raise UsageError(f"timm/{name}: {exc}.") from exc
    config: Any = module.pretrained_cfg
    channels, height, width = config.get("input_size", (3, 224, 224))
    return Model(
        name=f"timm/{name}",
        slug=f"timm-{name}",
        module=module.eval(),
        inputs=(TensorSpec(name="input", dtype="float32", shape=("batch", channels, "height", "width")),),
        sizes={"batch": 2, "height": height, "width": width},
        weights=Weights(source=UNTRAINED, trained=False, seed=request.seed),
        preprocessing=_preprocessing(config, (height, width)),
    )


def published(name: str, model: Model) -> tuple[str, str] | None:
    """Return the URL and label of the default weights, or None if there are none."""
    config: Any = model.module.pretrained_cfg
    url = config.get("url")
    if not url and config.get("hf_hub_id"):
        url = f"https://huggingface.co/{config['hf_hub_id']}/resolve/main/model.safetensors"
    return (url, f"{config.get('architecture', name)}.{config.get('tag', '')}") if url else None


def _preprocessing(config: Any, crop: tuple[int, int]) -> Preprocessing:
    crop_share = config.get("crop_pct") or 1.0
    return Preprocessing(
        crop=crop,
        resize=round(min(crop) / crop_share),
        mean=tuple(config.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(config.get("std", (0.229, 0.224, 0.225))),
        interpolation=config.get("interpolation") or "bicubic",
    )
