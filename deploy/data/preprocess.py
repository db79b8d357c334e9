"""Images to input batches, for training, evaluation and calibration alike.

Resizing and color conversion are Pillow's, as in torchvision's transforms for published weights: the results are
bitwise equal to ``torchvision.transforms`` on Pillow images (tested).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from deploy.core.errors import DataError, UsageError
from deploy.core.limits import limits
from deploy.core.model import Model, Preprocessing
from deploy.core.tensors import TensorSpec, batch_dimension
from deploy.data.dataset import Dataset, Image

Batch = tuple[NDArray[np.float32], NDArray[np.int64] | None]
"""Images (N, C, H, W), and labels (N,) or None."""

RESAMPLING = {item.name.lower(): item for item in Pillow.Resampling}
"""Pillow's filters: nearest, box, bilinear, hamming, bicubic, lanczos."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), as Pillow uses for uint8."""


def image_preprocessing(model: Model) -> Preprocessing:
    """Return the preprocessing of a model; without one, resize to its input and scale to [-1, 1].

    If the height and width of the input are fixed (``--input``), they replace the size of the published recipe.

    Raises:
        UsageError: the input of the model is not one batch of images.
    """
    assumed = assumed_preprocessing(model.name, model.inputs, model.sizes)
    return assumed if model.preprocessing is None else fitted(model.preprocessing, model.inputs)


def fitted(recipe: Preprocessing, inputs: Sequence[TensorSpec]) -> Preprocessing:
    """Return a preprocessing whose size is that of the input, if the height and width of the input are fixed."""
    size = inputs[0].shape[2:]
    if len(inputs[0].shape) != 4 or not all(isinstance(dim, int) for dim in size) or set(size) <= {*recipe.crop}:
        return recipe
    height, width = size
    return dataclasses.replace(recipe, crop=(int(height), int(width)), resize=None)


def assumed_preprocessing(name: str, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> Preprocessing:
    """Return the preprocessing that is assumed where none is known: resize to the input, scale to [-1, 1].

    Args:
        name: of the model or file, for messages.
        inputs: of the model.
        sizes: of its dynamic dimensions, except the batch.

    Raises:
        UsageError: the input is not one batch of images.
        InputSpecError: the size of a dimension is not known.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype != "float32":
        takes = "; ".join(map(str, inputs))
        raise UsageError(f"{name} takes {takes}, not one batch of images (batch, channels, height, width).")
    _, channels, height, width = inputs[0].concrete({str(batch_dimension(inputs)): 1, **sizes})
    half = (0.5,) * channels
    return Preprocessing(crop=(height, width), mean=half, std=half, gray=channels == 1)


def batches(dataset: Dataset, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
    """Prepare the images in order, one batch at a time.

    Yields:
        Images as float32 (N, C, H, W), and their labels as int64 (N,) or None.

    Raises:
        DataError: an image cannot be read, or its channels cannot be converted to the model's.
    """
    for start in range(0, len(dataset), batch_size):
        stop = min(start + batch_size, len(dataset))
        images = np.stack([prepare(dataset.images[index], preprocessing) for index in range(start, stop)])
        yield images, None if dataset.labels is None else dataset.labels[start:stop]


def prepare(image: Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Resize, crop, scale to [0, 1] and normalize one image to channels x height x width."""
    channels = len(preprocessing.mean)
    if image.shape[2] == 3 and channels == 1:
        image = _gray(image)
    if image.shape[2] not in (1, channels):
        raise DataError(f"an image has {image.shape[2]} channels; the model takes {channels}.")
    image = _center_crop(_resize(image, preprocessing), preprocessing.crop, preprocessing.letterbox or 0)
    scaled = image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image
    planes = np.repeat(scaled, channels, axis=2) if scaled.shape[2] != channels else scaled
    mean, std = (np.asarray(values, dtype=np.float32) for values in (preprocessing.mean, preprocessing.std))
    normalized: NDArray[np.float32] = ((planes - mean) / std).transpose(2, 0, 1)
    return np.ascontiguousarray(normalized)


def _gray(image: Image) -> Image:
    if image.dtype == np.uint8:
        return np.asarray(Pillow.fromarray(image).convert("L"))[:, :, None]
    return (image @ np.asarray(LUMINANCE, dtype=np.float32))[:, :, None]


def resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the height and width of an image before the crop."""
    if preprocessing.letterbox is not None:
        (height, width), (tall, wide) = size, preprocessing.crop
        new = (2 * height * wide + width) // (2 * width), (2 * width * tall + height) // (2 * height)  # rounded
        return max(1, min(tall, new[0])), max(1, min(wide, new[1]))
    if preprocessing.resize is None:
        return preprocessing.crop
    short, long = sorted(size)
    new = preprocessing.resize, int(preprocessing.resize * long / short)
    return new if size[0] <= size[1] else (new[1], new[0])


def placed(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Return where the top left corner of an image is after the crop; negative where it is cut off."""
    top, left = (
        max(0, wanted - own) // 2 - round(max(0, own - wanted) / 2) for own, wanted in zip(size, crop, strict=True)
    )
    return top, left


def _resize(image: Image, preprocessing: Preprocessing) -> Image:
    height, width = image.shape[:2]
    size = resized((height, width), preprocessing)
    if preprocessing.resize is not None and size[0] * size[1] > limits().image_pixels:  # an extreme aspect ratio
        raise DataError(f"{width} x {height} pixels are resized to {size[1]} x {size[0]}, which exceeds the limit.")
    if size == (height, width):
        return image
    if preprocessing.interpolation not in RESAMPLING:
        raise DataError(f"interpolation {preprocessing.interpolation!r} is not one of {', '.join(RESAMPLING)}.")
    resampling = RESAMPLING[preprocessing.interpolation]
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(Pillow.fromarray(image).resize(size[::-1], resampling))
    planes = [np.ascontiguousarray(image[:, :, channel]) for channel in range(image.shape[2])]
    return np.stack([np.asarray(Pillow.fromarray(plane).resize(size[::-1], resampling)) for plane in planes], axis=2)


def _center_crop(image: Image, crop: tuple[int, int], gray: int) -> Image:
    """Crop the center, rounding as torchvision does; pad with a gray value where the image is smaller."""
    missing = [max(0, size - own) for size, own in zip(crop, image.shape, strict=False)]
    if any(missing):
        padding: list[Any] = [(count // 2, (count + 1) // 2) for count in missing]
        value = gray if image.dtype == np.uint8 else gray / 255
        image = np.pad(image, [*padding, (0, 0)], constant_values=value)
    top, left = (round((own - size) / 2) for size, own in zip(crop, image.shape, strict=False))
    return image[top : top + crop[0], left : left + crop[1]]
