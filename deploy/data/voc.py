"""Boxes in the XML files of Pascal VOC: one file per image, corners in pixels counted from 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from deploy.core.errors import DataError
from deploy.data.annotation_files import Annotated, Place, as_numbers, class_names, images_below, text_of
from deploy.data.truth import Truth, boxes_in

Found = tuple[str, list[str], bool]
"""Name of an object, its corners as text, and whether it is marked as difficult."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(place: Place) -> tuple[list[Annotated], list[str], list[str]]:
    """Return the images, the names of the classes, and XML files without an image.

    The names are those in ``classes.txt``, else those that occur, sorted. Objects marked as difficult count as crowds:
    a detector may find them or not.

    Raises:
        DataError: an XML file cannot be read.
    """
    images = images_below(place.images)
    files = {
        path.relative_to(place.annotations).with_suffix("").as_posix(): path
        for path in sorted(place.annotations.rglob("*.xml"))
    }
    documents: dict[str, tuple[list[Found], tuple[int, int] | None] | DataError] = {}
    for key, path in files.items():
        try:
            documents[key] = _parse(path)
        except DataError as exc:
            documents[key] = exc
    known = [item for item in documents.values() if not isinstance(item, DataError)]
    names = class_names(place) or sorted({name for found, _ in known for name, _, _ in found})

    def reader(key: str) -> Any:
        def read_one(size: tuple[int, int]) -> Truth:
            document = documents.get(key, ([], None))
            if isinstance(document, DataError):
                raise document
            return _truth(*document, names, size)

        return read_one

    items = [Annotated(image=image, source=files.get(key, image), read=reader(key)) for key, image in images.items()]
    return items, names, [path.name for key, path in files.items() if key not in images]


def _parse(path: Path) -> tuple[list[Found], tuple[int, int] | None]:
    """Return the objects of a file, and the height and width that it gives the image."""
    text = text_of(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can expand without limit
        raise DataError("the XML declares a document type or entities, which are not read")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as exc:
        raise DataError(f"not valid XML: {exc}") from exc
    size = root.find("size")
    said = None if size is None else tuple((size.findtext(side) or "").strip() for side in ("height", "width"))
    found = []
    for item in root.iter("object"):
        box = item.find("bndbox")
        corners = [] if box is None else [(box.findtext(name) or "").strip() for name in _CORNERS]
        found.append(
            ((item.findtext("name") or "").strip(), corners, (item.findtext("difficult") or "").strip() == "1")
        )
    if said is None or not all(value.isdecimal() and int(value) for value in said):
        return found, None
    return found, (int(said[0]), int(said[1]))


def _truth(found: list[Found], said: tuple[int, int] | None, names: list[str], size: tuple[int, int]) -> Truth:
    if said is not None and said != size:
        raise DataError(f"the image has {size[1]} x {size[0]} pixels, and the file says {said[1]} x {said[0]}")
    boxes = np.zeros((len(found), 4))
    for number, (name, corners, _) in enumerate(found):
        if name not in names:
            raise DataError(f"object {number + 1}: the class {name!r} is not one of {', '.join(names)}")
        if len(corners) != 4:
            raise DataError(f"object {number + 1}, {name!r}: it has no box")
        boxes[number] = as_numbers(corners, f"object {number + 1}, {name!r}: the box")
    boxes[:, :2] -= 1  # the first pixel is 1, and the last one is in the box
    labels = np.asarray([names.index(name) for name, _, _ in found], np.int64)
    return boxes_in(boxes, labels, size, np.asarray([difficult for _, _, difficult in found], bool))
