"""From images to input batches: the one way that training, evaluation and calibration share.

Every step is Pillow's, as in torchvision's own recipes for published weights: the results equal those of
``torchvision.transforms`` on Pillow images to the bit (a test holds that).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from deploy.core.errors import DataError
from deploy.core.model import Preprocessing
from deploy.data.dataset import Dataset, Image

Batch = tuple[NDArray[np.float32], NDArray[np.int64] | None]

RESAMPLING = {
    "nearest": Pillow.Resampling.NEAREST,
    "bilinear": Pillow.Resampling.BILINEAR,
    "bicubic": Pillow.Resampling.BICUBIC,
    "lanczos": Pillow.Resampling.LANCZOS,
    "box": Pillow.Resampling.BOX,
    "hamming": Pillow.Resampling.HAMMING,
}
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue, ITU-R BT.601; Pillow's own for bytes."""


def batches(dataset: Dataset, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
    """Prepare the images in order, one batch at a time.

    Args:
        dataset: the images; only one batch of them is in memory.
        preprocessing: what the model wants.
        batch_size: images in a batch; the last one may have fewer.

    Yields:
        Images as float32 (N, C, H, W), and their labels as int64 (N,) or None.

    Raises:
        DataError: an image cannot be read, or has channels that cannot become the model's.
    """
    for start in range(0, len(dataset), batch_size):
        stop = min(start + batch_size, len(dataset))
        images = np.stack([prepare(dataset.images[index], preprocessing) for index in range(start, stop)])
        yield images, None if dataset.labels is None else dataset.labels[start:stop]


def prepare(image: Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Resize, crop, scale to [0, 1] and normalize one image.

    Args:
        image: height x width x channels, uint8 or float32 in [0, 1].
        preprocessing: what the model wants.

    Returns:
        Channels x height x width.

    Raises:
        DataError: the channels cannot become the model's.
    """
    wanted = len(preprocessing.mean)
    if image.shape[2] == 3 and wanted == 1:
        image = _gray(image)
    if image.shape[2] not in (1, wanted):
        raise DataError(f"an image has {image.shape[2]} channels, and the model takes {wanted}.")
    image = _crop(_resize(image, preprocessing), preprocessing.crop)
    scaled = image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image
    planes = np.repeat(scaled, wanted, axis=2) if scaled.shape[2] != wanted else scaled
    mean, std = (np.asarray(values, dtype=np.float32) for values in (preprocessing.mean, preprocessing.std))
    normal: NDArray[np.float32] = ((planes - mean) / std).transpose(2, 0, 1)
    return np.ascontiguousarray(normal)


def _gray(image: Image) -> Image:
    if image.dtype == np.uint8:
        return np.asarray(Pillow.fromarray(image).convert("L"))[:, :, None]
    return (image @ np.asarray(LUMINANCE, dtype=np.float32))[:, :, None]


def _resize(image: Image, preprocessing: Preprocessing) -> Image:
    height, width = image.shape[:2]
    if preprocessing.resize is None:
        size = preprocessing.crop
    else:
        short, long = sorted((height, width))
        new = preprocessing.resize, int(preprocessing.resize * long / short)
        size = new if height <= width else (new[1], new[0])
    if size == (height, width):
        return image
    if preprocessing.interpolation not in RESAMPLING:
        raise DataError(
            f"interpolation {preprocessing.interpolation!r} is not one of {', '.join(RESAMPLING)}.",
        )
    how = RESAMPLING[preprocessing.interpolation]
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(Pillow.fromarray(image).resize(size[::-1], how))
    planes = [np.ascontiguousarray(image[:, :, channel]) for channel in range(image.shape[2])]
    return np.stack([np.asarray(Pillow.fromarray(plane).resize(size[::-1], how)) for plane in planes], axis=2)


def _crop(image: Image, crop: tuple[int, int]) -> Image:
    """The center, padded with black where the image is smaller, by torchvision's rounding."""
    short = [max(0, want - have) for want, have in zip(crop, image.shape, strict=False)]
    if any(short):
        pads: list[Any] = [(lack // 2, (lack + 1) // 2) for lack in short]
        image = np.pad(image, [*pads, (0, 0)])
    top, left = (round((have - want) / 2) for want, have in zip(crop, image.shape, strict=False))
    return image[top : top + crop[0], left : left + crop[1]]
