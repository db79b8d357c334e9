"""From what the user typed after ``--data`` to a `Dataset`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from deploy.core import registry
from deploy.core.errors import DataError, MissingPackageError, UnknownNameError
from deploy.core.progress import SILENT, Progress
from deploy.data.arrays import load_arrays
from deploy.data.dataset import Dataset
from deploy.data.folder import LAYOUT, load_folder, subfolders
from deploy.data.split import divide

SOURCES = "deploy.data.sources"
_PARTS = {"train": ("train",), "tune": ("val", "test"), "test": ("test", "val")}
"""Folders that serve each purpose, the preferred one first."""


def known() -> list[str]:
    """Names of the bundled data sets, as the user spells them."""
    return [name.replace("_", "-") for name in registry.names(SOURCES)]


def open_dataset(
    data: str | Path,
    *,
    split: str = "test",
    root: Path | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """Open a data set; images are decoded later, in batches.

    Args:
        data: a bundled name, a folder, a ``.npy`` or a ``.npz`` file.
        split: ``train`` or ``test`` of a bundled set or of a folder with ``train`` and ``val`` or ``test``
            folders in it (of both, ``test`` is taken); what comes in one piece is given whole, as ``all``.
        root: where the files of a bundled set are, or are downloaded to.
        skip_bad: leave unreadable images out, saying so, instead of refusing.
        limit: at most so many images, evenly spaced over the collection; only these are examined.
        progress: told what was chosen.

    Raises:
        UnknownNameError: neither a name nor a path.
        DataError: it cannot be used, with the reason.
        MissingPackageError: the set needs a package that is not installed.
    """
    return _open(str(data), split, root, skip_bad, limit, progress)


def open_splits(
    data: str | Path, *, root: Path | None = None, skip_bad: bool = False, progress: Progress = SILENT
) -> tuple[Dataset, Dataset]:
    """Open the images to train on and those to choose the best epoch by.

    What comes in one piece is divided by `divide`; of folders ``val`` and ``test`` the former is taken.

    Raises:
        DataError: as `open_dataset`; also no labels, fewer than two classes, or a class only held out.
    """
    train = _open(str(data), "train", root, skip_bad, None, progress)
    train.labeled()
    if len(train.classes) < 2:
        raise DataError(f"{train.name}: one class only ({train.classes[0]}): nothing to tell apart.", LAYOUT)
    present = np.unique(train.labeled())
    if len(present) < len(train.classes):
        missing = next(name for index, name in enumerate(train.classes) if index not in present)
        hint = "number the classes from 0 without gaps" if train.indexed else None
        raise DataError(f"{train.name}: no image of class {missing!r}.", hint)
    if train.split == "all":
        return divide(train)
    return train, _in_order_of(_open(str(data), "tune", root, skip_bad, None, progress), train.classes)


def _open(data: str, split: str, root: Path | None, skip_bad: bool, limit: int | None, progress: Progress) -> Dataset:
    path = Path(data).expanduser()
    if data in known():
        dataset = _bundled(data, "train" if split == "train" else "test", root)
        return dataset.spread(limit) if limit else dataset
    if path.is_dir():
        chosen = _part(path, split)
        dataset = load_folder(chosen or path, skip_bad=skip_bad, limit=limit, progress=progress)
        if chosen is None:
            return dataset
        name = path.resolve().name
        return dataclasses.replace(dataset, name=name, split="train" if split == "train" else "test")
    if path.is_file() and path.suffix in (".npy", ".npz"):
        dataset = load_arrays(path)
        return dataset.spread(limit) if limit else dataset
    if path.exists():
        raise DataError(f"{path}: neither a folder nor a .npy or .npz file.", LAYOUT)
    if path.suffix or len(path.parts) > 1:
        raise DataError(f"{path}: there is no such file or folder.")
    names = ", ".join(known())
    raise UnknownNameError("data set", data, known(), f"known: {names}; or the path of a folder or a file")


def _bundled(name: str, split: str, root: Path | None) -> Dataset:
    try:
        source = registry.load(SOURCES, name.replace("-", "_"), "data set")
    except ModuleNotFoundError as exc:
        raise MissingPackageError(exc.name or name, f"the data set {name}", "deploy-toolkit[data]") from exc
    dataset: Dataset = source.load(split, root)
    return dataset


def _part(folder: Path, split: str) -> Path | None:
    """The folder of a split, or None where the folder is not divided (a class may well be called train)."""
    inner = {path.name: path for path in subfolders(folder)}
    if not inner or not set(inner) <= {"train", "val", "test"} or not any(map(subfolders, inner.values())):
        return None
    for name in _PARTS[split]:
        if name in inner:
            return inner[name]
    raise DataError(
        f"{folder}: there is no folder {' or '.join(_PARTS[split])} in it, only {', '.join(inner)}.",
        f"give the part itself, which is then divided: {inner[next(iter(inner))]}",
    )


def _in_order_of(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The same images with the labels that their classes have in ``classes``."""
    if dataset.classes == classes:
        return dataset
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        raise DataError(f"{dataset.name}: class {unknown[0]!r} is held out but not trained on.")
    index = np.asarray([classes.index(name) for name in dataset.classes], dtype=np.int64)
    return dataclasses.replace(dataset, classes=classes, labels=index[dataset.labeled()])
