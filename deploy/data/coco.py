"""Boxes and masks of objects in a COCO JSON file (cocodataset.org, "Data format")."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from deploy.core.errors import DataError
from deploy.core.limits import how_to_raise, limits
from deploy.data.annotation_files import Annotated, Place, as_numbers, text_of
from deploy.data.outlines import Outline, read_outline
from deploy.data.truth import Truth, boxes_in


def read(place: Place) -> tuple[list[Annotated], list[str], list[str]]:
    """Return the images, the names of the categories in the order of their ids, and annotations without an image.

    Raises:
        DataError: the file is not COCO JSON, an id is used twice, or an annotation has no category.
    """
    path = place.annotations
    if path.stat().st_size > limits().document_bytes:
        raise DataError(f"{path}: the file has {path.stat().st_size} bytes.", how_to_raise("document_bytes"))
    try:
        document = json.loads(text_of(path))
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{path}: not valid JSON: {exc}.") from exc
    images, annotations, categories = (_list(document, key, path) for key in ("images", "annotations", "categories"))
    names = _by_id(categories, "categories", path)
    index = {identity: number for number, identity in enumerate(sorted(names))}
    pictures = _by_id(images, "images", path)
    described: dict[int, list[dict[str, Any]]] = defaultdict(list)
    orphans = []
    for number, item in enumerate(annotations):
        where = f"annotation {item.get('id', number)}"
        if item.get("category_id") not in index:
            raise DataError(f"{path}: {where} has the category {item.get('category_id')!r}, which is not listed.")
        if item.get("image_id") in pictures:
            described[item["image_id"]].append(item)
        else:
            orphans.append(f"{where} of image {item.get('image_id')!r}")
    items = []
    for identity, picture in pictures.items():
        file = place.images / _inside(picture.get("file_name"), path)
        if file.is_file():
            items.append(Annotated(image=file, source=path, read=_reader(picture, described[identity], index)))
        else:
            orphans.append(f"image {picture['file_name']!r}, which is not in {place.images}")
    return items, [str(names[identity].get("name", identity)) for identity in sorted(names)], orphans


def _list(document: Any, key: str, path: Path) -> list[dict[str, Any]]:
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DataError(f"{path}: not a COCO file: {key!r} is not a list of objects.")
    return found


def _by_id(items: list[dict[str, Any]], key: str, path: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for item in items:
        identity = item.get("id")
        if not isinstance(identity, int) or identity in found:
            raise DataError(f"{path}: {key}: the id {identity!r} is not an integer or is used twice.")
        found[identity] = item
    return found


def _inside(name: Any, path: Path) -> PurePosixPath:
    """Return the name of an image, which must not lead out of the folder of the images."""
    relative = PurePosixPath(str(name).replace("\\", "/"))
    if not isinstance(name, str) or not name or relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{path}: the file name {name!r} is not one of a file in the folder of the images.")
    return relative


def _reader(picture: dict[str, Any], items: list[dict[str, Any]], index: dict[int, int]) -> Any:
    def read_one(size: tuple[int, int]) -> Truth:
        said = picture.get("height"), picture.get("width")
        name = picture["file_name"]
        if None not in said and said != size:
            raise DataError(f"image {name!r} has {size[1]} x {size[0]} pixels, and the file says {said[1]} x {said[0]}")
        boxes = np.zeros((len(items), 4))
        for number, item in enumerate(items):
            what = f"image {name!r}: the box of annotation {item.get('id')}"
            values = item.get("bbox")
            if not isinstance(values, list) or len(values) != 4:
                raise DataError(f"{what} is not a list of four numbers")
            x, y, width, height = as_numbers(values, what)
            boxes[number] = x, y, x + width, y + height
        try:
            truth = boxes_in(
                boxes,
                np.asarray([index[item["category_id"]] for item in items], np.int64),
                size,
                np.asarray([bool(item.get("iscrowd")) for item in items], bool),
            )
        except DataError as exc:
            raise DataError(f"image {name!r}: {exc.message}") from exc
        masks, reason = _masks(items, size)
        return dataclasses.replace(truth, masks=masks, unmasked=reason and f"image {name!r}: {reason}")

    return read_one


def _masks(items: list[dict[str, Any]], size: tuple[int, int]) -> tuple[tuple[Outline, ...] | None, str]:
    """Return the masks of all objects, else why there are none; many files with boxes have an empty one."""
    if not any(item.get("segmentation") for item in items):
        return (None, "") if items else ((), "")
    masks = []
    for item in items:
        try:
            masks.append(read_outline(item.get("segmentation"), size))
        except DataError as exc:
            return None, f"the segmentation of annotation {item.get('id')} {exc.message}"
    return tuple(masks), ""
