"""Open the data set that ``--data`` names."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import NoReturn

import numpy as np

from deploy.core import registry
from deploy.core.errors import DataError, MissingPackageError, UnknownNameError, UsageError
from deploy.core.extras import require
from deploy.core.progress import SILENT, Progress
from deploy.data.annotated import find_place, load_annotated
from deploy.data.arrays import load_arrays, open_arrays
from deploy.data.dataset import Dataset, stratified_split
from deploy.data.decode import EXTENSIONS
from deploy.data.folder import LAYOUT, load_folder, subfolders

SOURCES = "deploy.data.sources"
NEED_EXTRA = ("digits",)
"""Data sets of ours that need the extra ``data``."""
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "test"), "test": ("test", "val")}
"""Folders that serve as each split, in order of preference."""


def bundled_names() -> list[str]:
    """Return the names of the bundled data sets as the user writes them."""
    return [name.replace("_", "-") for name in registry.names(SOURCES)]


def check_data(data: str) -> None:
    """Refuse data that cannot be opened, before anything is made for it; no image is decoded.

    Raises:
        DataError: no such file or folder, a file of another type, a damaged array file, or a folder without images.
        UnknownNameError: neither a known name nor a path.
        MissingPackageError: the data set needs a package that is not installed.
    """
    path, names = Path(data).expanduser(), bundled_names()
    if data in names:
        if data in NEED_EXTRA:
            require("data")
    elif path.is_dir():
        files = (name for *_, names in os.walk(path, followlinks=True) for name in names)
        if not any(name.lower().endswith(EXTENSIONS) for name in files):
            raise DataError(f"{path}: contains no images.", LAYOUT)
    elif path.is_file() and path.suffix in (".npy", ".npz"):
        with open_arrays(path):
            pass
    elif path.is_file() and path.suffix == ".json":
        pass  # read when it is opened
    else:
        _refuse(data, path, names)


def _refuse(data: str, path: Path, names: list[str]) -> NoReturn:
    if path.exists():
        raise DataError(f"{path}: neither a folder nor a .npy, .npz or COCO .json file.", LAYOUT)
    if path.suffix or len(path.parts) > 1 or data.endswith(("/", os.sep)):
        raise DataError(f"{path}: no such file or folder.")
    hint = f"known: {', '.join(names)}; or give the path of a folder or file"
    raise UnknownNameError("data set", data, names, hint)


def open_dataset(
    data: str | Path,
    *,
    split: str = "test",
    root: Path | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """Open a bundled data set, a folder, or a ``.npy``, ``.npz`` or COCO ``.json`` file; images are decoded later.

    A folder has one subfolder per class, or boxes or masks, see `deploy.data.annotated`.

    Args:
        data: name or path.
        split: ``train``, ``val`` or ``test``, for bundled data sets and for folders with subfolders of these names;
            ``val`` and ``test`` replace each other if one is missing. Data without splits is returned whole, as
            ``all``.
        root: folder with the files of bundled data sets, or to download them to.
        skip_bad: skip unreadable images with a warning instead of raising.
        limit: maximum number of images, evenly spaced over the data set; only these are examined.
        progress: receives warnings.

    Raises:
        UnknownNameError: ``data`` is neither a known name nor a path.
        UsageError: ``root`` for other data than a bundled data set, or ``skip_bad`` for other data than a folder.
        MissingPackageError: the data set needs a package that is not installed.
    """
    path = Path(data).expanduser()
    names = bundled_names()
    if skip_bad and (str(data) in names or (path.is_file() and path.suffix != ".json")):
        raise UsageError(f"--skip-bad is only used with a folder of images, not with {data}.")
    part = "train" if split == "train" else "test"
    if str(data) in names:
        dataset = _bundled(str(data), part, root)
        return dataset.spread(limit) if limit else dataset
    if root is not None and path.exists():
        raise UsageError(f"--data-root is only used with {', '.join(names)}, not with {data}.")
    place = find_place(path, split)
    if place is not None:
        return load_annotated(place, skip_bad=skip_bad, limit=limit, progress=progress)
    if path.is_dir():
        folder = _split_folder(path, split)
        dataset = load_folder(folder or path, skip_bad=skip_bad, limit=limit, progress=progress)
        return dataset if folder is None else dataclasses.replace(dataset, name=path.resolve().name, split=part)
    if path.is_file() and path.suffix in (".npy", ".npz"):
        dataset = load_arrays(path)
        return dataset.spread(limit) if limit else dataset
    _refuse(str(data), path, names)


def open_splits(
    data: str | Path, *, root: Path | None = None, skip_bad: bool = False, progress: Progress = SILENT
) -> tuple[Dataset, Dataset]:
    """Open the training images and the held-out images that choose the best epoch.

    Data without splits is divided by `stratified_split`; of the splits ``val`` and ``test``, ``val`` is preferred.

    Raises:
        DataError: as `open_dataset`; also without labels, with fewer than two classes, or with a class that is only
            in the held-out images.
    """
    train = open_dataset(data, split="train", root=root, skip_bad=skip_bad, progress=progress)
    if train.truths is not None:
        if train.split == "all":
            return stratified_split(train)
        return train, _matching(open_dataset(data, split="val", root=root, skip_bad=skip_bad, progress=progress), train)
    labels = train.labeled()
    if len(train.classes) < 2:
        raise DataError(f"{train.name}: has only one class ({train.classes[0]}); two are needed.", LAYOUT)
    present = np.unique(labels)
    if len(present) < len(train.classes):
        missing = next(name for index, name in enumerate(train.classes) if index not in present)
        hint = "number the classes from 0 without gaps" if train.indexed else None
        raise DataError(f"{train.name}: no image of class {missing!r}.", hint)
    if train.split == "all":
        return stratified_split(train)
    held_out = open_dataset(data, split="val", root=root, skip_bad=skip_bad, progress=progress)
    return train, _relabel(held_out, train.classes)


def _bundled(name: str, split: str, root: Path | None) -> Dataset:
    try:
        source = registry.load(SOURCES, name.replace("-", "_"), "data set")
    except ModuleNotFoundError as exc:
        raise MissingPackageError(exc.name or name, f"the data set {name}", "deploy-toolkit[data]") from exc
    dataset: Dataset = source.load(split, root)
    return dataset


def _split_folder(folder: Path, split: str) -> Path | None:
    """Return the folder of a split, or None if the folder has no splits (a class may be named ``train``)."""
    inner = {path.name: path for path in subfolders(folder)}
    if not inner or not set(inner) <= {"train", "val", "test"} or not any(map(subfolders, inner.values())):
        return None
    for name in _SPLIT_FOLDERS[split]:
        if name in inner:
            return inner[name]
    raise DataError(
        f"{folder}: no subfolder {' or '.join(_SPLIT_FOLDERS[split])}; found: {', '.join(inner)}.",
        f"name the subfolder, which is then split: {inner[next(iter(inner))]}",
    )


def _matching(held_out: Dataset, train: Dataset) -> Dataset:
    """Return held-out images with boxes or masks, whose classes must be those of the training images."""
    if (held_out.classes, held_out.pixel_classes) != (train.classes, train.pixel_classes):
        classes = [", ".join(item.classes or item.pixel_classes) for item in (train, held_out)]
        hint = "list the classes of both in classes.txt"
        raise DataError(
            f"{train.name}: the training images have the classes {classes[0]}; held out: {classes[1]}.", hint
        )
    return held_out


def _relabel(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Renumber the labels by the order of ``classes``."""
    if dataset.classes == classes:
        return dataset
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        raise DataError(f"{dataset.name}: held-out class {unknown[0]!r} is not in the training images.")
    index = np.asarray([classes.index(name) for name in dataset.classes], dtype=np.int64)
    return dataclasses.replace(dataset, classes=classes, labels=index[dataset.labeled()])
