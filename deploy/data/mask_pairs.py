"""Masks for semantic segmentation: for every image an image of the same name whose pixels are indices of classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.errors import DataError
from deploy.data.annotation_files import Annotated, Place, class_names, images_below, numbered
from deploy.data.decode import decode_indices
from deploy.data.truth import IGNORED, Truth


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """Files of masks, decoded one at a time."""

    paths: tuple[Path, ...]
    classes: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Truth:
        try:
            return Truth.of_pixels(decode_indices(self.paths[index]))
        except DataError as exc:
            raise DataError(f"{self.paths[index]}: {exc.message}.") from exc


def read(place: Place) -> tuple[list[Annotated], list[str], list[str]]:
    """Return the images, the names of the classes, and masks without an image.

    The names are those in ``classes.txt``, in the order of the values, else the values. The value 255 is not counted.

    Raises:
        DataError: a mask cannot be read and there is no ``classes.txt``.
    """
    images, masks = images_below(place.images), images_below(place.annotations)
    names = class_names(place)
    if names is None:
        highest = -1
        for path in masks.values():
            try:
                values = decode_indices(path)
            except DataError as exc:
                raise DataError(f"{path}: {exc.message}.") from exc
            highest = max(highest, int(values[values != IGNORED].max(initial=0)))
        names = numbered(highest)
    count = len(names)

    def reader(key: str) -> Any:
        def read_one(size: tuple[int, int]) -> Truth:
            if key not in masks:
                raise DataError("it has no mask")
            pixels = decode_indices(masks[key])
            if pixels.shape != size:
                shape = f"{pixels.shape[1]} x {pixels.shape[0]}"
                raise DataError(f"the mask has {shape} pixels, and the image {size[1]} x {size[0]}")
            highest = int(np.where(pixels == IGNORED, 0, pixels).max(initial=0))
            if highest >= count:
                raise DataError(f"the mask has the value {highest}, which is not an index of {count} classes")
            return Truth.of_pixels(pixels)

        return read_one

    items = [Annotated(image=path, source=masks.get(key, path), read=reader(key)) for key, path in images.items()]
    return items, names, [path.name for key, path in masks.items() if key not in images]
