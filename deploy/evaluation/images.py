"""Images as the input of a model."""

from __future__ import annotations

import dataclasses

from deploy.core.errors import UsageError
from deploy.core.model import Model, Preprocessing


def image_preprocessing(model: Model) -> Preprocessing:
    """How images become the model's input; where the model does not say, resized to it and scaled to [-1, 1].

    An input whose height and width are fixed (``--input``) wins over the size of the published recipe.

    Raises:
        UsageError: it does not take one batch of images.
    """
    specs = model.inputs
    if len(specs) != 1 or len(specs[0].shape) != 4 or specs[0].dtype != "float32" or model.listed:
        takes = "; ".join(map(str, specs))
        raise UsageError(f"{model.name} takes {takes}: not one batch of images (batch, channels, height, width).")
    _, channels, height, width = specs[0].concrete({"batch": 1, **model.sizes})
    recipe = model.preprocessing
    if recipe is not None and not set(specs[0].shape[2:]) <= {*recipe.crop}:
        fixed = all(isinstance(dim, int) for dim in specs[0].shape[2:])
        return dataclasses.replace(recipe, crop=(height, width), resize=None) if fixed else recipe
    if recipe is not None:
        return recipe
    half = (0.5,) * channels
    return Preprocessing(crop=(height, width), mean=half, std=half, gray=channels == 1)
