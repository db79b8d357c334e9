"""Folders of images: one subfolder per class, or images without classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.core.errors import DataError
from deploy.core.progress import Progress
from deploy.data.dataset import Dataset, Image, evenly
from deploy.data.decode import EXTENSIONS, decode_file
from deploy.data.parallel import in_threads

LAYOUT = "FOLDER/<class>/<image>.png, or the same within FOLDER/train and FOLDER/val, or images without classes"
MAX_LISTED = 5
"""Unreadable images that an error lists."""


@dataclass(frozen=True, slots=True)
class FileImages:
    """Image files, decoded one at a time."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Image:
        path = self.paths[index]
        try:
            return decode_file(path)[1]
        except DataError as exc:
            raise DataError(f"{path}: {exc.message}.") from exc


def load_folder(folder: Path, *, skip_bad: bool, limit: int | None, progress: Progress) -> Dataset:
    """Open a folder with one subfolder per class, or with images without classes.

    Every image is read and decoded once here, so that an unreadable one is reported before any work begins. Names
    that begin with a dot are ignored; symbolic links are followed. ``limit`` images are evenly spaced over the folder.

    Raises:
        DataError: there are no images, a class has none, or images cannot be read (unless ``skip_bad``).
    """
    listed, listed_labels, classes = _list(folder, progress)
    chosen = evenly(len(listed), limit) if limit else np.arange(len(listed))
    paths = [listed[index] for index in chosen]
    results = _examine(paths, progress)
    bad = [f"{path.relative_to(folder)}: {why}" for path, (_, why) in zip(paths, results, strict=True) if why]
    good = [index for index, (_, why) in enumerate(results) if not why]
    if bad:
        _report_unreadable(folder, bad, len(paths), skip_bad, progress)
    labels = None
    if listed_labels is not None:
        labels = np.asarray([listed_labels[chosen[index]] for index in good], dtype=np.int64)
        missing = [name for label, name in enumerate(classes) if label not in labels]
        if missing and not limit:
            raise DataError(f"{folder}: no image of class {missing[0]!r} can be read.")
    digest = hashlib.sha256()
    for index in good:
        name = os.fsencode(paths[index].relative_to(folder).as_posix())
        digest.update(name + f"\0{results[index][0]}\n".encode())
    return Dataset(
        name=folder.resolve().name,
        split="all",
        classes=classes,
        images=FileImages(tuple(paths[index] for index in good)),
        labels=labels,
        digest=digest.hexdigest(),
        skipped=tuple(bad),
    )


def _report_unreadable(folder: Path, bad: list[str], total: int, skip_bad: bool, progress: Progress) -> None:
    if not skip_bad or len(bad) == total:
        hint = None if skip_bad else "repair or remove them, or skip them with --skip-bad"
        raise DataError(f"{folder}: {len(bad)} of {total} images cannot be read: {named(bad)}.", hint)
    progress.warn(f"{folder}: skipped {len(bad)} of {total} images that cannot be read: {named(bad)}.")


def named(texts: Sequence[str]) -> str:
    """Return the first few texts in a row, and how many more there are."""
    return "; ".join(texts[:MAX_LISTED]) + (f"; and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else "")


def subfolders(folder: Path) -> list[Path]:
    """Return the subfolders sorted by name, without hidden ones."""
    return sorted(path for path in _entries(folder) if path.is_dir())


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as exc:
        raise DataError(f"{folder}: cannot be listed: {exc.strerror}.") from exc


def _list(folder: Path, progress: Progress) -> tuple[list[Path], list[int] | None, tuple[str, ...]]:
    """Return the images, their labels (None without class folders) and the classes."""
    own = sorted(path for path in _entries(folder) if path.suffix.lower() in EXTENSIONS and not path.is_dir())
    members = {path: _walk(path) for path in subfolders(folder)}
    if not any(members.values()):
        if own:
            return own, None, ()
        raise DataError(f"{folder}: contains no images.", LAYOUT)
    empty = [path.name for path, images in members.items() if not images]
    if empty:
        others = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise DataError(
            f"{folder}: class folder {empty[0]!r} contains no images{others}.",
            "remove it, or add images: " + " ".join(EXTENSIONS),
        )
    if own:
        progress.note(f"{folder}: ignoring {len(own)} images that are not in a class folder")
    paths = [path for images in members.values() for path in images]
    labels = [label for label, images in enumerate(members.values()) for _ in images]
    return paths, labels, tuple(path.name for path in members)


def _walk(folder: Path) -> list[Path]:
    """Return every image below ``folder``, sorted; each folder is visited once, even through a cycle of links."""
    images, visited = [], set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}.") from error

    for where, inner, names in os.walk(folder, followlinks=True, onerror=refuse):
        state = os.stat(where)
        if (state.st_dev, state.st_ino) in visited:
            inner.clear()
            continue
        visited.add((state.st_dev, state.st_ino))
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                images.append(Path(where, name))
    return sorted(images)


def _examine(paths: list[Path], progress: Progress) -> list[tuple[str, str]]:
    """Return for each file the digest of its bytes, and why it cannot be decoded (empty if it can)."""

    def examine(path: Path) -> tuple[str, str]:
        try:
            data, _ = decode_file(path)
        except DataError as exc:
            return "", exc.message
        return hashlib.sha256(data).hexdigest(), ""

    return in_threads(examine, paths, progress)
