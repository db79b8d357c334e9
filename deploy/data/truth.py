"""What pictures show: boxes with classes, and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError
from deploy.data.outlines import SLACK, Outline

IGNORED = 255
"""Value of pixels in a mask that belong to no class and are not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What one picture of height h and width w shows.

    Attributes:
        size: height and width in pixels.
        boxes: float32 [k, 4], corners (x1, y1, x2, y2) in pixels; k may be 0.
        labels: int64 [k], indices of classes.
        crowd: bool [k], boxes around groups: detections in them are not counted as wrong.
        masks: the pixels of each object, or None.
        unmasked: why there are no masks, if the data has some; empty if it has none.
        pixels: uint8 [h, w], the class of every pixel or `IGNORED`, or None.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    masks: tuple[Outline, ...] | None = None
    unmasked: str = ""
    pixels: NDArray[np.uint8] | None = None

    @classmethod
    def of_pixels(cls, pixels: NDArray[np.uint8]) -> Truth:
        """Return the truth of a picture of which only the class of every pixel is known."""
        empty = np.zeros((0, 4), np.float32)
        none = np.zeros(0, np.int64)
        size = pixels.shape[0], pixels.shape[1]
        return cls(size=size, boxes=empty, labels=none, crowd=none.astype(bool), pixels=pixels)


class Truths(Protocol):
    """The truths of a data set, which need not be in memory."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def __getitem__(self, index: int, /) -> Truth:
        """Return the truth of one picture.

        Raises:
            DataError: its mask cannot be read, or does not fit the picture.
        """
        ...


@dataclass(frozen=True, slots=True)
class ListedTruths:
    """Truths in memory."""

    items: tuple[Truth, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int, /) -> Truth:
        return self.items[index]


def boxes_in(
    boxes: NDArray[np.float64], labels: NDArray[np.int64], size: tuple[int, int], crowd: NDArray[np.bool_] | None = None
) -> Truth:
    """Return the truth of boxes that are in their picture; a box that exceeds it by `SLACK` is clipped.

    Args:
        boxes: [k, 4], corners in pixels.
        labels: [k].
        size: height and width of the picture.
        crowd: [k], default none.

    Raises:
        DataError: a box is empty, not finite, or outside the picture.
    """
    height, width = size
    for box in boxes:
        x1, y1, x2, y2 = (float(value) for value in box)
        text = f"the box from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        if not np.isfinite(box).all():
            raise DataError(f"{text} is not finite")
        if x2 <= x1 or y2 <= y1:
            raise DataError(f"{text} is empty")
        if min(x1, y1) < -SLACK or x2 > width + SLACK or y2 > height + SLACK:
            raise DataError(f"{text} is outside the picture of {width} x {height} pixels")
        if x1 >= width or y1 >= height or min(x2, y2) <= 0:  # nothing would remain after clipping
            raise DataError(f"{text} is outside the picture of {width} x {height} pixels")
    clipped = np.clip(boxes.reshape(-1, 4), 0, [width, height, width, height])
    return Truth(
        size=size,
        boxes=clipped.astype(np.float32),
        labels=np.asarray(labels, np.int64).reshape(-1),
        crowd=np.zeros(len(labels), bool) if crowd is None else crowd,
    )
