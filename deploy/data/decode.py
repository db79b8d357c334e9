"""Decode image files: the one place that opens images of others."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from deploy.core.errors import DataError, DeployError
from deploy.core.limits import PREFIX, limits
from deploy.core.regular import read_bytes
from deploy.data.dataset import Image

FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""The formats that are decoded, by Pillow's names, and their extensions: those of torchvision's ImageFolder.

Pillow chooses the decoder by the content of a file, whatever its name is. Some of its decoders start programs
(PostScript: Ghostscript), so only these are used.
"""
EXTENSIONS = tuple(extension for extensions in FORMATS.values() for extension in extensions)

_BITS_PER_SAMPLE = 258
"""TIFF tag."""


class _WithoutWarnings:
    """Hides warnings about unusual but readable files while any thread decodes; warning filters are not per thread."""

    def __init__(self) -> None:
        self._lock, self._threads = threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._filters.__exit__(None, None, None)


_without_warnings = _WithoutWarnings()


def decode_file(path: Path) -> tuple[bytes, Image]:
    """Return the bytes of an image file, and the image; see `decode`.

    Raises:
        DataError: also if the file is not a regular file, cannot be read or is too large.
    """
    try:
        data = read_bytes(path, "image_bytes")
    except OSError as exc:
        raise DataError(exc.strerror or type(exc).__name__) from exc
    return data, decode(data)


def decode(data: bytes) -> Image:
    """Decode one image from the bytes of its file; of several images in a file, the first.

    Transparency is dropped and orientation tags are not applied, as by torchvision's ImageFolder. Gray images have one
    channel, all others three (palettes and CMYK are converted to RGB).

    Returns:
        Height x width x channels: uint8, or float32 in [0, 1] for gray images of 9 to 16 bits or of floats.

    Raises:
        DataError: the bytes are not an image of `FORMATS`, are damaged, have more than ``image_pixels`` pixels, or have
            samples whose white is not known: 32-bit integers, and floats outside [0, 1].
    """
    if not data:
        raise DataError("empty file")
    try:
        with _without_warnings:
            return _decode(data)
    except DeployError:
        raise
    except UnidentifiedImageError as exc:
        raise DataError(f"not an image in one of the formats {', '.join(FORMATS)}") from exc
    except Exception as exc:  # a decoder may raise anything on a damaged file
        raise DataError(str(exc).splitlines()[0] if str(exc) else type(exc).__name__) from exc


def decode_indices(path: Path) -> NDArray[np.uint8]:
    """Decode an image file whose pixels are indices: those of a palette, or values of gray.

    Returns:
        Height x width.

    Raises:
        DataError: as `decode_file`; also if the image has colors, or an index above 255.
    """
    try:
        data = read_bytes(path, "image_bytes")
        with _without_warnings, Pillow.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            _check_pixels(image)
            if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
                raise DataError(f"a mask has one index per pixel, and the image is of mode {image.mode}")
            indices = np.asarray(image)
    except DeployError:
        raise
    except OSError as exc:  # also UnidentifiedImageError
        raise DataError(exc.strerror or "not an image that can be decoded") from exc
    except Exception as exc:  # a decoder may raise anything on a damaged file
        raise DataError(str(exc).splitlines()[0] if str(exc) else type(exc).__name__) from exc
    if indices.size and not 0 <= indices.min() <= indices.max() <= 255:
        raise DataError(f"a mask has indices from 0 to 255, and the image {indices.min()} to {indices.max()}")
    return indices.astype(np.uint8)


def _check_pixels(image: Pillow.Image) -> None:
    most = limits().image_pixels
    if image.width * image.height > most:
        raise DataError(f"{image.width} x {image.height} pixels exceed the limit {PREFIX}IMAGE_PIXELS={most}")


def _decode(data: bytes) -> Image:
    with Pillow.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
        _check_pixels(image)
        if image.mode == "F":
            return _floats(np.asarray(image))
        if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
            return _deep(np.asarray(image), _white(image))
        gray = image.mode in ("1", "L", "LA", "La")
        array = np.asarray(image.convert("L" if gray else "RGB"))
        return array[:, :, np.newaxis] if gray else array


def _white(image: Pillow.Image) -> int:
    """Return the largest value that a gray image of more than 8 bits can have."""
    if image.format != "TIFF":
        return 65535  # Pillow scales PGM to it, and PNG has 16 bits
    tags: Any = image
    (bits,) = tags.tag_v2.get(_BITS_PER_SAMPLE, (16,))
    if image.mode == "I" or bits > 16:
        raise DataError(f"samples are {bits}-bit integers, of which white is not known; save them as uint8 or uint16")
    return (1 << int(bits)) - 1


def _deep(array: NDArray[Any], white: int) -> Image:
    scaled: Image = array.astype(np.float32) / np.float32(white)
    return scaled[:, :, np.newaxis]


def _floats(array: NDArray[Any]) -> Image:
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise DataError(
            f"values from {low} to {high}; floats must be in [0, 1]: divide by their maximum possible value"
        )
    return np.asarray(array, np.float32)[:, :, np.newaxis]
