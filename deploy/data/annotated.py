"""Folders of images with boxes or masks: which layout a folder has, and the data set that it becomes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from deploy.core.errors import DataError
from deploy.core.progress import Progress
from deploy.data import coco, mask_pairs, voc, yolo
from deploy.data.annotation_files import Annotated, Layout, Place
from deploy.data.dataset import Dataset, evenly
from deploy.data.decode import decode_file
from deploy.data.folder import FileImages, named
from deploy.data.parallel import in_threads
from deploy.data.truth import ListedTruths, Truth, Truths

LAYOUTS = (
    "layouts: images/ and labels/ (YOLO), images/ and masks/, Annotations/ and JPEGImages/ (VOC), or a COCO JSON file"
)
SPLITS = {"train": ("train",), "val": ("val", "valid", "test"), "test": ("test", "val", "valid")}
"""Folders that serve as each split, in order of preference."""
_EVERY = ("train", "val", "valid", "test")
_FOLDERS: tuple[tuple[Layout, str, str], ...] = (
    ("yolo", "images", "labels"),
    ("masks", "images", "masks"),
    ("voc", "JPEGImages", "Annotations"),
)
_COCO_NAMES = ("annotations.json", "*coco*.json", "instances*.json")


def find_place(path: Path, split: str) -> Place | None:
    """Return where the images and annotations of a split are; None if a path has no boxes or masks.

    Raises:
        DataError: the folder has splits, and none serves as the one that is asked for.
    """
    if path.is_file():
        return _coco(path) if path.suffix == ".json" else None
    part = "train" if split == "train" else "test"
    for name in SPLITS[split]:
        found = _place_of_split(path, name)
        if found is not None:
            return dataclasses.replace(found, root=path, split=part)
    others = [name for name in _EVERY if _place_of_split(path, name) is not None]
    if others:
        raise DataError(f"{path}: no split {' or '.join(SPLITS[split])}; found: {', '.join(others)}.")
    return _whole(path)


def _place_of_split(path: Path, name: str) -> Place | None:
    for layout, pictures, labels in _FOLDERS:
        if (path / pictures / name).is_dir() and (path / labels / name).is_dir():
            return Place(layout=layout, root=path, images=path / pictures / name, annotations=path / labels / name)
    described = sorted((path / "annotations").glob(f"instances_{name}*.json"))
    if described:
        return _coco(described[0])
    return _whole(path / name) if (path / name).is_dir() else None


def _whole(path: Path) -> Place | None:
    for layout, pictures, labels in _FOLDERS:
        if (path / pictures).is_dir() and (path / labels).is_dir():
            return Place(layout=layout, root=path, images=path / pictures, annotations=path / labels)
    for folder in (path, path / "annotations"):
        described = sorted(item for pattern in _COCO_NAMES for item in folder.glob(pattern))
        if len(set(described)) > 1:
            names = ", ".join(item.name for item in described)
            raise DataError(f"{folder}: several annotation files: {names}.", f"name one of them: {described[0]}")
        if described:
            return _coco(described[0])
    if any(path.glob("*.xml")):  # beside the images
        return Place(layout="voc", root=path, images=path, annotations=path)
    return None


def _coco(path: Path) -> Place:
    """Return the place of a COCO file: its images are beside it, in ``images``, or in the folder of its split."""
    folder, split = path.parent, path.stem.rpartition("_")[2]
    above = folder.parent
    candidates = (folder / "images", above / split, above / "images" / split, above / "images")
    found = [item for item in candidates if item.is_dir()] if folder.name == "annotations" else []
    images = found[0] if found else folder / "images"
    return Place(layout="coco", root=folder, images=images if images.is_dir() else folder, annotations=path)


def load_annotated(place: Place, *, skip_bad: bool, limit: int | None, progress: Progress) -> Dataset:
    """Open images with boxes or masks.

    Every image and annotation is read once here, so that an unusable one is reported before any work begins. An image
    without boxes is kept: it shows nothing. ``limit`` images are evenly spaced over the data set.

    Raises:
        DataError: an image or annotation cannot be used (unless ``skip_bad``), or an annotation has no image.
    """
    read = {"coco": coco.read, "yolo": yolo.read, "voc": voc.read, "masks": mask_pairs.read}[place.layout]
    items, classes, orphans = read(place)
    if not items:
        raise DataError(f"{place.images}: contains no images.", LAYOUTS)
    if orphans:
        text = f"{place.annotations}: {len(orphans)} annotations of missing images: {named(orphans)}"
        if not skip_bad:
            raise DataError(f"{text}.", "add the images, remove the annotations, or leave them out with --skip-bad")
        progress.warn(f"{text}; they are left out.")
    if limit:
        items = [items[index] for index in evenly(len(items), limit)]
    results = _examine(items, progress)
    bad = [f"{_relative(path, place)}: {reason}" for _, _, path, reason in results if reason]
    if bad:
        text = f"{place.root}: {len(bad)} of {len(items)} images or annotations cannot be used: {named(bad)}"
        if not skip_bad or len(bad) == len(items):
            raise DataError(f"{text}.", None if skip_bad else "repair or remove them, or skip them with --skip-bad")
        progress.warn(f"{text}; they are left out.")
    good = [index for index, result in enumerate(results) if not result[3]]
    digest = hashlib.sha256(repr(classes).encode())
    for index in good:
        name = os.fsencode(items[index].image.relative_to(place.images).as_posix())
        digest.update(name + f"\0{results[index][0]}\n".encode())
    masks = place.layout == "masks"
    truths: Truths = ListedTruths(tuple(truth for index in good if (truth := results[index][1]) is not None))
    if masks:
        truths = mask_pairs.MaskFiles(tuple(items[index].source for index in good), len(classes))
    return Dataset(
        name=place.root.resolve().name,
        split=place.split,
        classes=() if masks else tuple(classes),
        images=FileImages(tuple(items[index].image for index in good)),
        labels=None,
        digest=digest.hexdigest(),
        indexed=all(name.isdecimal() for name in classes),
        skipped=(*bad, *orphans),
        truths=truths,
        pixel_classes=tuple(classes) if masks else (),
    )


def _examine(items: Sequence[Annotated], progress: Progress) -> list[tuple[str, Truth | None, Path, str]]:
    """Return for each image a digest, what it shows, the file at fault and why it cannot be used (empty if it can)."""

    def examine(item: Annotated) -> tuple[str, Truth | None, Path, str]:
        try:
            data, image = decode_file(item.image)
        except DataError as exc:
            return "", None, item.image, exc.message
        try:
            truth = item.read((image.shape[0], image.shape[1]))
        except DataError as exc:
            return "", None, item.source, exc.message
        digest = hashlib.sha256(data + truth.boxes.tobytes() + truth.labels.tobytes())
        if truth.masks:
            digest.update(json.dumps(truth.masks).encode())
        if truth.pixels is not None:
            digest.update(truth.pixels.tobytes())
            truth = Truth.of_pixels(truth.pixels[:0])  # read again when it is needed
        return digest.hexdigest(), truth, item.image, ""

    return in_threads(examine, items, progress)


def _relative(path: Path, place: Place) -> Path:
    return path.relative_to(place.root) if path.is_relative_to(place.root) else path
