"""Images in ``.npy`` and ``.npz`` files."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError
from deploy.data.dataset import ArrayImages, Dataset

IMAGES = ("images", "x")
LABELS = ("labels", "y")
MOST_CLASSES = 1_000_000

_CHUNK_BYTES = 1 << 24


def load_arrays(path: Path) -> Dataset:
    """Open ``.npy`` (images only; mapped, not read) or ``.npz`` (``images`` or ``x``, ``labels`` or ``y``).

    Raises:
        DataError: not an array file, shapes or values that are not images, or labels that do not fit them.
    """
    images, labels = _members(path)
    images = _channels_last(images, path)
    digest = _check_values(images, path)
    if labels is not None:
        labels = _check_labels(labels, len(images), path)
        digest.update(labels.tobytes())
    classes = tuple(str(index) for index in range(int(labels.max()) + 1)) if labels is not None else ()
    return Dataset(
        name=path.stem,
        split="all",
        classes=classes,
        images=ArrayImages(images),
        labels=labels,
        digest=digest.hexdigest(),
        indexed=True,
    )


def _members(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False), None
        with path.open("rb") as stream:  # numpy leaves its own open where the archive is damaged
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: a single array; call it .npy.")
            images, labels = (next((name for name in names if name in archive), None) for names in (IMAGES, LABELS))
            if images is None:
                held = ", ".join(archive) or "nothing"
                raise DataError(f"{path}: no member is called 'images' or 'x'; it holds: {held}.")
            return archive[images], None if labels is None else archive[labels]
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as exc:
        raise DataError(f"{path}: not a complete file of plain arrays: {exc or type(exc).__name__}.") from exc


def _channels_last(images: NDArray[Any], path: Path) -> NDArray[Any]:
    """N x H x W x C, from that, from N x C x H x W (preferred where both could be), or from N x H x W."""
    if not images.size:
        raise DataError(f"{path}: the array of shape {list(images.shape)} holds no image.")
    if images.ndim == 3:
        return images[..., np.newaxis]
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return np.moveaxis(images, 1, -1)
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images
    raise DataError(
        f"{path}: an array of shape {list(images.shape)} is not images.",
        "use (N, C, H, W), (N, H, W, C) with 1 or 3 channels, or (N, H, W)",
    )


def _check_values(images: NDArray[Any], path: Path) -> hashlib._Hash:
    """One pass over the values, a piece at a time; returns the digest of their shape, dtype and bytes."""
    floating = np.issubdtype(images.dtype, np.floating)
    if not floating and not np.issubdtype(images.dtype, np.integer):
        raise DataError(f"{path}: {images.dtype} is no dtype of images.", "save them as uint8 or float32")
    top = 1 if floating else 255
    digest = hashlib.sha256(f"{images.shape} {images.dtype.str}".encode())
    step = max(1, _CHUNK_BYTES // max(1, images[0].nbytes))
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        low, high = chunk.min(), chunk.max()
        if not (low >= 0 and high <= top):  # so written that NaN fails it
            raise DataError(
                f"{path}: values from {low} to {high} near image {start}; "
                f"{'floats must be in [0, 1]' if floating else 'integers must be in 0..255'}.",
                "save uint8, or floats divided by their largest possible value; they are normalized later",
            )
        digest.update(np.ascontiguousarray(chunk).tobytes())
    return digest


def _check_labels(labels: NDArray[Any], count: int, path: Path) -> NDArray[np.int64]:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: labels of shape {list(labels.shape)}, {labels.dtype}, are not a class index an image.",
            "for one-hot labels: labels.argmax(axis=1)",
        )
    if len(labels) != count:
        raise DataError(f"{path}: {len(labels)} labels for {count} images.")
    if labels.min() < 0 or labels.max() >= MOST_CLASSES:
        raise DataError(f"{path}: labels from {labels.min()} to {labels.max()} are not class indices.")
    return labels.astype(np.int64)
