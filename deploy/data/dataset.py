"""Labeled images that are decoded on access."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError
from deploy.data.truth import Truth, Truths

Image = NDArray[Any]
"""One image, height x width x channels: uint8 in 0..255, or float32 in [0, 1]."""

HELD_OUT = 0.2
"""Share of each class that `stratified_split` holds out."""

SPLIT_SEED = 0
"""Seed of `stratified_split`. Not an option: a later evaluation must find the same held-out images."""


class Images(Protocol):
    """A sequence of images that need not be in memory."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int, /) -> Image:
        """Decode one image.

        Raises:
            DataError: the image cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class ArrayImages:
    """Images N x H x W x C in an array, which may be memory-mapped; integers in 0..255 or floats in [0, 1]."""

    array: NDArray[Any]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int, /) -> Image:
        image = self.array[index]
        dtype = np.float32 if np.issubdtype(image.dtype, np.floating) else np.uint8
        return np.ascontiguousarray(image, dtype=dtype)


@dataclass(frozen=True, slots=True)
class _Subset:
    images: Images
    indices: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Image:
        return self.images[int(self.indices[index])]


@dataclass(frozen=True, slots=True)
class _TruthSubset:
    truths: Truths
    indices: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Truth:
        return self.truths[int(self.indices[index])]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Images with their classes and their origin.

    Attributes:
        name: ``digits``, or the name of the folder or file.
        split: ``train``, ``test``, or ``all`` if the data set has no splits.
        classes: class names in label order; empty without labels.
        labels: int64 (N,), or None without labels.
        digest: SHA-256 of the names, contents and labels of the whole data set; all its splits have the same one.
        indexed: the labels are output indices of a model and the class names mean nothing (array files).
        skipped: unreadable images that were left out, each with the reason.
        truths: boxes and masks, or None. Such images have no ``labels``; the labels of boxes are indices of
            ``classes``.
        pixel_classes: names of the classes of pixels, in the order of their values; empty without such masks.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    images: Images
    labels: NDArray[np.int64] | None
    digest: str
    indexed: bool = False
    skipped: tuple[str, ...] = ()
    truths: Truths | None = None
    pixel_classes: tuple[str, ...] = ()

    @classmethod
    def from_arrays(
        cls, name: str, split: str, classes: tuple[str, ...], images: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> Dataset:
        """Build a data set from images (N x H x W x C) and labels (N,) in memory."""
        digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        return cls(name=name, split=split, classes=classes, images=ArrayImages(images), labels=labels, digest=digest)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: NDArray[np.intp], *, split: str | None = None) -> Dataset:
        """Return the images at ``indices``, in that order, without copying or decoding them."""
        chosen = np.asarray(indices, dtype=np.intp)
        labels = None if self.labels is None else self.labels[chosen]
        if isinstance(self.images, _Subset):
            images = _Subset(self.images.images, self.images.indices[chosen])
        else:
            images = _Subset(self.images, chosen)
        truths = None if self.truths is None else _TruthSubset(self.truths, chosen)
        return dataclasses.replace(self, images=images, labels=labels, truths=truths, split=split or self.split)

    def spread(self, count: int) -> Dataset:
        """Return at most ``count`` images, evenly spaced over the data set."""
        return self if count >= len(self) else self.take(evenly(len(self), count))

    def labeled(self) -> NDArray[np.int64]:
        """Return the labels.

        Raises:
            DataError: the images have no labels.
        """
        if self.labels is None:
            raise DataError(
                f"{self.name}: the images have no labels.",
                "put the images of each class into a folder, or use .npz with 'images' and 'labels'",
            )
        return self.labels

    def annotated(self, *, pixels: bool = False) -> Truths:
        """Return the boxes of the images, or the classes of their pixels.

        Raises:
            DataError: the images have none.
        """
        if self.truths is None or not (self.pixel_classes if pixels else self.classes):
            raise DataError(
                f"{self.name}: the images have no {'masks' if pixels else 'boxes'}.",
                "layouts: images/ and masks/" if pixels else "layouts: COCO JSON; images/ and labels/; VOC XML",
            )
        return self.truths

    def summary(self) -> dict[str, Any]:
        """Return plain values for a report or a manifest."""
        return {
            "name": self.name,
            "split": self.split,
            "images": len(self),
            "classes": len(self.classes or self.pixel_classes),
            "digest": self.digest,
            "skipped": len(self.skipped),
        }


def evenly(total: int, count: int) -> NDArray[np.intp]:
    """Return ``count`` indices evenly spaced over ``range(total)``, including the first and the last."""
    return np.asarray(np.linspace(0, total - 1, min(count, total)).round(), dtype=np.intp)


def stratified_split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Split a data set into training and held-out images; repeated calls give the same split.

    `HELD_OUT` of each class is held out, at least one image; a class of one image is only in the training part. Images
    with boxes or masks count as one class.

    Raises:
        DataError: the images have no labels, or no class has two images.
    """
    labels = dataset.labeled() if dataset.truths is None else np.zeros(len(dataset), np.int64)
    random = np.random.RandomState(SPLIT_SEED)  # same stream in every numpy version, unlike Generator
    held_out = np.zeros(len(dataset), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        count = max(1, round(HELD_OUT * len(members))) if len(members) > 1 else 0
        held_out[members[:count]] = True
    if not held_out.any():
        raise DataError(f"{dataset.name}: no class has two images, so none can be held out.", "add images")
    return (
        dataset.take(np.flatnonzero(~held_out), split="train"),
        dataset.take(np.flatnonzero(held_out), split="test"),
    )
