"""Images with their labels, decoded only when they are asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError

Image = NDArray[Any]
"""One image, height x width x channels: uint8 in 0..255, or float32 in [0, 1]."""


class Images(Protocol):
    """A sequence of images that need not be in memory."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int, /) -> Image:
        """Decode one.

        Raises:
            DataError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class ArrayImages:
    """Images of an array, N x H x W x C, that may be mapped from a file.

    Attributes:
        array: integers in 0..255 or floats in [0, 1]; that was checked when it was opened.
    """

    array: NDArray[Any]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int, /) -> Image:
        image = self.array[index]
        kind = np.float32 if np.issubdtype(image.dtype, np.floating) else np.uint8
        return np.ascontiguousarray(image, dtype=kind)


@dataclass(frozen=True, slots=True)
class _Picked:
    images: Images
    indices: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Image:
        return self.images[int(self.indices[index])]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Images, their classes, and where they came from.

    Attributes:
        name: ``digits``, or the name of the folder or file.
        split: ``train``, ``test``, or ``all`` of a collection that is not divided.
        classes: names in the order of the labels; empty where there are no labels.
        labels: int64, one for each image; None where there are none.
        digest: SHA-256 over names, content and labels of the collection the images are from; the parts of one
            collection have the same.
        indexed: the labels are indices of a model's outputs and the names mean nothing (arrays).
        skipped: unreadable images that were left out, each with the reason.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    images: Images
    labels: NDArray[np.int64] | None
    digest: str
    indexed: bool = False
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: NDArray[np.intp], *, split: str | None = None) -> Dataset:
        """The images at ``indices``, in that order; nothing is copied or decoded."""
        picked = np.asarray(indices, dtype=np.intp)
        if isinstance(self.images, _Picked):
            images = _Picked(self.images.images, self.images.indices[picked])
        else:
            images = _Picked(self.images, picked)
        return dataclasses.replace(
            self,
            images=images,
            labels=None if self.labels is None else self.labels[picked],
            split=split or self.split,
        )

    def spread(self, count: int) -> Dataset:
        """At most ``count`` images, evenly spaced over the collection."""
        return self if count >= len(self) else self.take(evenly(len(self), count))

    def labeled(self, hint: str | None = None) -> NDArray[np.int64]:
        """The labels.

        Raises:
            DataError: there are none.
        """
        if self.labels is None:
            raise DataError(
                f"{self.name}: the images have no labels.",
                hint or "put each class into a folder of its own, or use .npz with 'images' and 'labels'",
            )
        return self.labels

    def summary(self) -> dict[str, Any]:
        """Plain values for a report or a manifest."""
        return {
            "name": self.name,
            "split": self.split,
            "images": len(self),
            "classes": len(self.classes),
            "digest": self.digest,
            "skipped": len(self.skipped),
        }


def evenly(total: int, count: int) -> NDArray[np.intp]:
    """``count`` indices evenly spaced over ``range(total)``, the first and the last included."""
    return np.asarray(np.linspace(0, total - 1, min(count, total)).round(), dtype=np.intp)
