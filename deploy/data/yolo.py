"""Boxes and outlines in text files as YOLO reads them, in shares of the picture.

A line is ``class cx cy w h``, a box, or ``class x1 y1 x2 y2 …``, the outline of an object.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError
from deploy.core.extras import require
from deploy.data.annotation_files import Annotated, Place, as_numbers, class_names, images_below, numbered, text_of
from deploy.data.truth import Truth, boxes_in

Row = tuple[int, tuple[float, float, float, float], NDArray[np.float64] | None]
"""A class, the corners of a box, and its outline [points, 2] or None, in shares of the picture."""


def read(place: Place) -> tuple[list[Annotated], list[str], list[str]]:
    """Return the images, the names of the classes, and label files without an image.

    The names are those in ``classes.txt`` or ``data.yaml``, else the indices.

    Raises:
        DataError: a label file cannot be read, or the names cannot.
    """
    images = images_below(place.images)
    files = {
        path.relative_to(place.annotations).with_suffix("").as_posix(): path
        for path in sorted(place.annotations.rglob("*.txt"))
        if path.name != "classes.txt"
    }
    names = class_names(place) or _yaml_names(place)
    if names is None:
        names = numbered(max((_highest(path) for path in files.values()), default=-1))
    count = len(names)

    def reader(path: Path) -> Any:
        def read_one(size: tuple[int, int]) -> Truth:
            rows = _rows(path, count)
            height, width = size
            boxes = np.asarray([box for _, box, _ in rows], np.float64).reshape(-1, 4)
            labels = np.asarray([label for label, _, _ in rows], np.int64)
            truth = boxes_in(boxes * [width, height, width, height], labels, size)
            return dataclasses.replace(truth, **_masks([outline for _, _, outline in rows], size, path))

        return read_one

    items = [
        Annotated(image=image, source=files.get(key, image), read=reader(files[key]) if key in files else _nothing)
        for key, image in images.items()
    ]
    return items, names, [f"{path.name}" for key, path in files.items() if key not in images]


def _nothing(size: tuple[int, int]) -> Truth:
    return dataclasses.replace(boxes_in(np.zeros((0, 4)), np.zeros(0, np.int64), size), masks=())


def _masks(outlines: list[NDArray[np.float64] | None], size: tuple[int, int], path: Path) -> dict[str, Any]:
    """Return the masks of all objects, else why there are none."""
    known = [outline for outline in outlines if outline is not None]
    if not known and outlines:
        return {"masks": None}
    if len(known) < len(outlines):
        return {"masks": None, "unmasked": f"{path.name}: some lines are boxes, and some are outlines"}
    height, width = size
    return {"masks": tuple([(outline * [width, height]).reshape(-1).tolist()] for outline in known)}


def _highest(path: Path) -> int:
    firsts = [line.split()[0] for line in text_of(path).splitlines() if line.strip()]
    return max((int(text) for text in firsts if text.isdecimal() and len(text) < 7), default=-1)


def _rows(path: Path, classes: int) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(text_of(path).splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        if not parts[0].isdecimal() or int(parts[0]) >= classes:
            raise DataError(f"line {number}: the class {parts[0]!r} is not an index of {classes} classes")
        values = as_numbers(parts[1:], f"line {number}: {line.strip()!r}")
        outline = None
        if len(values) == 4:
            (x, y), (width, height) = values[:2], values[2:]
            corners = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        elif len(values) >= 6 and len(values) % 2 == 0:
            outline = values.reshape(-1, 2)
            corners = *outline.min(axis=0), *outline.max(axis=0)
        else:
            raise DataError(f"line {number}: {len(values)} numbers after the class; a box has 4")
        rows.append((int(parts[0]), tuple(map(float, corners)), outline))  # type: ignore[arg-type]
    return rows


def _yaml_names(place: Place) -> list[str] | None:
    """Return the names in ``data.yaml``, a list or a mapping from indices."""
    for folder in dict.fromkeys((place.root, place.images.parent, place.images.parent.parent)):
        path = next((folder / name for name in ("data.yaml", "data.yml") if (folder / name).is_file()), None)
        if path is None:
            continue
        require("sweep")
        import yaml

        try:
            document = yaml.safe_load(text_of(path))
        except (yaml.YAMLError, RecursionError) as exc:
            raise DataError(f"{path}: not valid YAML: {' '.join(str(exc).split())}.") from exc
        names = document.get("names") if isinstance(document, dict) else None
        if isinstance(names, dict) and sorted(names) == list(range(len(names))):
            names = [names[index] for index in range(len(names))]
        if not isinstance(names, list) or not names:
            raise DataError(f"{path}: 'names' is neither a list nor a mapping from the indices 0, 1, … to names.")
        return [str(name) for name in names]
    return None
