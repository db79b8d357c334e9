"""timm, when it is installed (extra ``timm``)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import timm
import torch

from deploy.core.errors import UsageError
from deploy.core.model import Model, Preprocessing, Weights
from deploy.core.tensors import TensorSpec
from deploy.models.request import ModelRequest, typed


def names() -> list[str]:
    """Every architecture timm knows."""
    return list(timm.list_models())


def summary(name: str) -> str:
    """Nothing: timm says of most architectures no more than their name."""
    return ""


def build(name: str, request: ModelRequest) -> Model:
    """Build a model with the weights its constructor draws.

    Raises:
        UsageError: the architecture does not take an option.
    """
    options = {key: typed(value) for key, value in request.options.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # exportable: timm's own switch for layers that have a variant for exporters
            module = timm.create_model(name, pretrained=False, exportable=True, **options)
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
        weights=Weights(source="untrained", trained=False, seed=request.seed),
        preprocessing=_preprocessing(config, (height, width)),
    )


def published(name: str, model: Model) -> tuple[str, str, Any] | None:
    """Address, label and meta data of the default weights, or None where there are none."""
    config: Any = model.module.pretrained_cfg
    url = config.get("url")
    if not url and config.get("hf_hub_id"):
        url = f"https://huggingface.co/{config['hf_hub_id']}/resolve/main/model.safetensors"
    return (url, f"{config.get('architecture', name)}.{config.get('tag', '')}", {}) if url else None


def cache_folder() -> Path:
    """Where torch keeps downloaded checkpoints."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _preprocessing(config: Any, crop: tuple[int, int]) -> Preprocessing:
    share = config.get("crop_pct") or 1.0
    return Preprocessing(
        crop=crop,
        resize=round(min(crop) / share),
        mean=tuple(config.get("mean", (0.485, 0.456, 0.406))),
        std=tuple(config.get("std", (0.229, 0.224, 0.225))),
        interpolation=config.get("interpolation") or "bicubic",
    )
