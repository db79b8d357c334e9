"""The preprocessing of a model of transformers, where `deploy.core.model.Preprocessing` expresses it.

What the files beside a model say depends on the class of its image processor. A recipe is therefore tried against the
processor itself on one picture, and kept only if both agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.model import Preprocessing
from deploy.core.tensors import TensorSpec

_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
_PICTURE = (301, 427)
_TOLERANCE = 0.02
"""Largest mean difference, with pixels from 0 to 1: rounding and filters differ by less, another crop by more."""


def find_preprocessing(place: Path | str, specs: Sequence[TensorSpec]) -> tuple[Preprocessing | None, list[str]]:
    """Return the preprocessing that a model's files describe, and why there is none in a note."""
    if len(specs) != 1 or len(specs[0].shape) != 4:
        return None, []
    import transformers

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processor: Any = transformers.AutoImageProcessor.from_pretrained(
                place, trust_remote_code=False, local_files_only=isinstance(place, Path)
            )
    except Exception:  # there is no preprocessor_config.json, or transformers does not know the class
        return None, ["no preprocessing: preprocessor_config.json is missing or cannot be read"]
    try:
        recipe = _recipe(processor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            agrees = _agrees(processor, recipe)
    except Exception as exc:
        return None, [f"no preprocessing: {type(processor).__name__} cannot be expressed ({exc})"]
    if not agrees:
        return None, [f"no preprocessing: {type(processor).__name__} computes something else than resize and crop"]
    return recipe, []


def _recipe(processor: Any) -> Preprocessing:
    """Return the recipe that the fields of a processor describe.

    Raises:
        ValueError: it does something else.
    """
    values = processor.to_dict()
    size, crop = values.get("size") or {}, values.get("crop_size") or {}
    if values.get("do_resize", True) and {"height", "width"} <= {*size}:
        resize, side = None, (size["height"], size["width"])
    elif values.get("do_resize", True) and "shortest_edge" in size and values.get("do_center_crop"):
        resize, side = int(size["shortest_edge"]), (crop["height"], crop["width"])
    else:
        raise ValueError("the size of its result depends on the image")
    if int(values.get("resample", 2)) not in _FILTERS:
        raise ValueError(f"its filter is {values['resample']}")
    normal = values.get("do_normalize", True)
    return Preprocessing(
        crop=(int(side[0]), int(side[1])),
        mean=tuple(map(float, values["image_mean"])) if normal else (0.0, 0.0, 0.0),
        std=tuple(map(float, values["image_std"])) if normal else (1.0, 1.0, 1.0),
        resize=resize,
        interpolation=_FILTERS[int(values.get("resample", 2))],
    )


def _agrees(processor: Any, recipe: Preprocessing) -> bool:
    """Return whether a recipe gives what the processor gives, for one picture."""
    from deploy.data.preprocess import prepare

    height, width = _PICTURE
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    waves = np.sin(rows / 23 + np.arange(3)) + np.cos(columns / 31 - rows / 90)
    picture = np.asarray(127.5 + 60 * waves, dtype=np.uint8)
    expected = np.asarray(processor(picture, return_tensors="np")["pixel_values"])[0]
    actual = prepare(picture, recipe)
    if expected.shape != actual.shape:
        return False
    scale = np.asarray(recipe.std).reshape(-1, 1, 1)
    return float(np.abs((expected - actual) * scale).mean()) < _TOLERANCE
