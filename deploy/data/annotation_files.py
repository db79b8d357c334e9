"""The files of annotated images: where they are, and what the readers of all layouts need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from deploy.core.errors import DataError
from deploy.core.regular import read_text
from deploy.data.decode import EXTENSIONS
from deploy.data.truth import Truth

Layout = Literal["coco", "yolo", "voc", "masks"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a data set is.

    Attributes:
        root: the folder that the user named, or that of the JSON file.
        images: folder of the images.
        annotations: folder of the labels or masks; for COCO the JSON file.
        split: ``train``, ``test``, or ``all``.
    """

    layout: Layout
    root: Path
    images: Path
    annotations: Path
    split: str = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotated:
    """One image and how to learn what it shows.

    Attributes:
        source: the file that describes the image, for messages.
        read: from the height and width of the image to what it shows; raises DataError.
    """

    image: Path
    source: Path
    read: Callable[[tuple[int, int]], Truth]


def images_below(folder: Path) -> dict[str, Path]:
    """Return the images in a folder and its subfolders by their path without the extension, sorted.

    Raises:
        DataError: two images differ only in their extension, so that an annotation could belong to either.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise DataError(f"{path}: differs from {found[key].name} only in its extension.")
        found[key] = path
    return found


def text_of(path: Path) -> str:
    """Read a text file.

    Raises:
        DataError: it cannot be read, is too large, or is no UTF-8.
    """
    try:
        return read_text(path)
    except (OSError, ValueError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}.") from exc


def class_names(place: Place) -> list[str] | None:
    """Return the lines of ``classes.txt`` in the folder of the data set, None if there is no such file.

    Raises:
        DataError: a line is empty, or two are equal.
    """
    for folder in dict.fromkeys((place.root, place.images.parent, place.annotations)):
        path = folder / "classes.txt"
        if path.is_file():
            names = [line.strip() for line in text_of(path).strip().splitlines()]
            if "" in names or len(set(names)) < len(names):
                raise DataError(f"{path}: a class name is empty or listed twice.")
            return names
    return None


def numbered(highest: int) -> list[str]:
    """Return names for classes of which only the index is known."""
    return [str(index) for index in range(highest + 1)]


def as_numbers(values: Sequence[object], what: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return finite numbers.

    Raises:
        DataError: a value is not one.
    """
    try:
        numbers = np.asarray([float(str(value)) for value in values], np.float64)
    except ValueError as exc:
        raise DataError(f"{what} is not a list of numbers") from exc
    if not np.isfinite(numbers).all():
        raise DataError(f"{what} is not finite")
    return numbers
