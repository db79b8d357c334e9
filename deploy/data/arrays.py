"""Images in ``.npy`` and ``.npz`` files."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.archive import check_archive
from deploy.core.errors import DataError, DeployError
from deploy.core.limits import limits
from deploy.data.dataset import ArrayImages, Dataset

IMAGES = ("images", "x")
"""Names of the array of images in an ``.npz`` file."""
LABELS = ("labels", "y")
"""Names of the array of labels in an ``.npz`` file."""

_CHUNK_BYTES = 1 << 24


def load_arrays(path: Path) -> Dataset:
    """Open ``.npy`` (images only, memory-mapped) or ``.npz`` (``images`` or ``x``, ``labels`` or ``y``).

    Raises:
        DataError: the file is not an array file, its shapes or values are not those of images, or the labels do not
            match the images.
    """
    return images_of(*_read(path), path)


def images_of(images: NDArray[Any], labels: NDArray[Any] | None, path: Path) -> Dataset:
    """Return arrays as a data set named after the file that they are from.

    Raises:
        DataError: as `load_arrays`.
    """
    images = _channels_last(images, path)
    digest = _check_values(images, path)
    classes: tuple[str, ...] = ()
    if labels is not None:
        labels = _check_labels(labels, len(images), path)
        digest.update(labels.tobytes())
        classes = tuple(str(index) for index in range(int(labels.max()) + 1))
    return Dataset(
        name=path.stem,
        split="all",
        classes=classes,
        images=ArrayImages(images),
        labels=labels,
        digest=digest.hexdigest(),
        indexed=True,
    )


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    with open_arrays(path) as arrays:
        if path.suffix == ".npy":
            return arrays[""], None
        images, labels = (next((name for name in names if name in arrays), None) for names in (IMAGES, LABELS))
        if images is None:
            members = ", ".join(arrays) or "none"
            raise DataError(f"{path}: no array named 'images' or 'x'; arrays in the file: {members}.")
        return read_array(arrays, images), None if labels is None else read_array(arrays, labels)


def read_array(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """Return an array of `open_arrays`; numpy gives the bytes of members that are not arrays."""
    array = arrays[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"the member {name!r} is not an array")
    return array


@contextlib.contextmanager
def open_arrays(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Open a ``.npy`` (one array, named ``""``, memory-mapped) or a ``.npz``, whose arrays are read on access.

    Raises:
        DataError: the file is damaged or missing, contains Python objects, or unpacks to more than the limit
            ``archive_expansion`` allows; also if an array that is read in the context is damaged.
    """
    try:
        if not path.is_file():  # reading from a pipe would block
            raise DataError(f"{path}: no such file.")
        if path.suffix == ".npy":
            yield {"": np.load(path, mmap_mode="r", allow_pickle=False)}
            return
        with path.open("rb") as stream:  # given a path, numpy does not close the file of a damaged archive
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: contains a single array, not an .npz archive.", "rename the file to .npy")
            with zipfile.ZipFile(path) as members:
                check_archive(members, path.stat().st_size)
            yield archive
    except DeployError:
        raise
    except Exception as exc:  # numpy and zipfile may raise anything on a damaged file
        raise DataError(f"{path}: not a valid array file: {exc or type(exc).__name__}.") from exc


def _channels_last(images: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return N x H x W x C, from N x C x H x W (preferred where both fit), N x H x W x C or N x H x W."""
    if not images.size:
        raise DataError(f"{path}: the array of shape {list(images.shape)} contains no images.")
    if images.ndim == 3:
        return images[..., np.newaxis]
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return np.moveaxis(images, 1, -1)
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images
    raise DataError(
        f"{path}: an array of shape {list(images.shape)} cannot be read as images.",
        "use (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, or (N, H, W)",
    )


def _check_values(images: NDArray[Any], path: Path) -> hashlib._Hash:
    """Check the values in chunks and return the digest of shape, dtype and bytes."""
    floating = np.issubdtype(images.dtype, np.floating)
    if not floating and not np.issubdtype(images.dtype, np.integer):
        raise DataError(f"{path}: dtype {images.dtype} is not supported for images.", "save them as uint8 or float32")
    top = 1 if floating else 255
    digest = hashlib.sha256(f"{images.shape} {images.dtype.str}".encode())
    step = max(1, _CHUNK_BYTES // max(1, images[0].nbytes))
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        low, high = chunk.min(), chunk.max()
        if not (low >= 0 and high <= top):  # also true for NaN
            raise DataError(
                f"{path}: values from {low} to {high} near image {start}; "
                f"{'floats must be in [0, 1]' if floating else 'integers must be in 0..255'}.",
                "save uint8, or floats divided by their maximum possible value; normalization is applied later",
            )
        digest.update(np.ascontiguousarray(chunk).tobytes())
    return digest


def _check_labels(labels: NDArray[Any], count: int, path: Path) -> NDArray[np.int64]:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: labels of shape {list(labels.shape)} and dtype {labels.dtype} are not one class index per image.",
            "for one-hot labels: labels.argmax(axis=1)",
        )
    if len(labels) != count:
        raise DataError(f"{path}: {len(labels)} labels for {count} images.")
    if labels.min() < 0 or labels.max() >= limits().classes:
        raise DataError(f"{path}: labels from {labels.min()} to {labels.max()} are not class indices.")
    return labels.astype(np.int64)
