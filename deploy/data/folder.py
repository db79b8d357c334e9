"""Images in folders: one folder a class, or no classes at all."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from deploy.core.environment import usable_cores
from deploy.core.errors import DataError
from deploy.core.progress import Progress
from deploy.data.dataset import Dataset, Image, evenly

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder."""

LAYOUT = "FOLDER/<class>/<image>.png; or that within FOLDER/train and FOLDER/val; or images without classes"
MOST_PIXELS = 1 << 27
"""Of an image; a larger one is more likely an attack on the memory than a picture."""

SHOWN = 5
"""Unreadable images that an error names."""


@dataclass(frozen=True, slots=True)
class FileImages:
    """Image files, decoded one at a time."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Image:
        path = self.paths[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `load_folder` has decoded it before
                return _decode(_read(path))
        except _UnreadableError as exc:
            raise DataError(f"{path}: {exc}.") from exc


class _UnreadableError(Exception):
    """Why an image cannot be read."""


@dataclass(frozen=True, slots=True)
class _Listing:
    paths: list[Path]
    labels: list[int] | None
    classes: tuple[str, ...]


def load_folder(folder: Path, *, skip_bad: bool, limit: int | None, progress: Progress) -> Dataset:
    """Open a folder of class folders, or of images without classes.

    Every image that will be used is read and decoded once, so that a bad one is known before any work begins.
    Names that begin with a dot are passed over; links are followed.

    Raises:
        DataError: no images, a class without images, or images that cannot be read (unless ``skip_bad``).
    """
    listing = _list(folder, progress)
    chosen = evenly(len(listing.paths), limit) if limit else np.arange(len(listing.paths))
    paths = [listing.paths[index] for index in chosen]
    results = _examine(paths, progress)
    bad = [f"{path.relative_to(folder)}: {why}" for path, (_, why) in zip(paths, results, strict=True) if why]
    good = [index for index, (_, why) in enumerate(results) if not why]
    if bad:
        _report_bad(folder, bad, len(paths), skip_bad, progress)
    labels = None
    if listing.labels is not None:
        labels = np.asarray([listing.labels[chosen[index]] for index in good], dtype=np.int64)
        if not limit:
            _no_class_lost(folder, listing.classes, labels)
    digest = hashlib.sha256()
    for index in good:
        name = os.fsencode(paths[index].relative_to(folder).as_posix())
        digest.update(name + f"\0{results[index][0]}\n".encode())
    return Dataset(
        name=folder.resolve().name,
        split="all",
        classes=listing.classes,
        images=FileImages(tuple(paths[index] for index in good)),
        labels=labels,
        digest=digest.hexdigest(),
        skipped=tuple(bad),
    )


def _report_bad(folder: Path, bad: list[str], total: int, skip_bad: bool, progress: Progress) -> None:
    shown = "; ".join(bad[:SHOWN]) + (f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
    if not skip_bad or len(bad) == total:
        hint = None if skip_bad else "mend or remove them, or leave them out with --skip-bad"
        raise DataError(f"{folder}: {len(bad)} of {total} images cannot be read: {shown}.", hint)
    progress.warn(f"{folder}: {len(bad)} of {total} images cannot be read and are left out: {shown}.")


def _no_class_lost(folder: Path, classes: tuple[str, ...], labels: NDArray[np.int64]) -> None:
    for index, name in enumerate(classes):
        if not (labels == index).any():
            raise DataError(f"{folder}: no image of class {name!r} can be read.")


def subfolders(folder: Path) -> list[Path]:
    """Folders within, sorted by name, hidden ones left out."""
    return sorted(path for path in _entries(folder) if path.is_dir())


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as exc:
        raise DataError(f"{folder}: cannot be listed: {exc.strerror}.") from exc


def _list(folder: Path, progress: Progress) -> _Listing:
    own = sorted(path for path in _entries(folder) if path.suffix.lower() in EXTENSIONS and not path.is_dir())
    members = {path: _walk(path) for path in subfolders(folder)}
    if not any(members.values()):
        if own:
            return _Listing(own, None, ())
        raise DataError(f"{folder}: there is no image in it.", LAYOUT)
    empty = [path.name for path, images in members.items() if not images]
    if empty:
        raise DataError(
            f"{folder}: class folder {empty[0]!r} holds no image"
            + (f" (and {len(empty) - 1} more)." if len(empty) > 1 else "."),
            "remove it, or add images: " + " ".join(EXTENSIONS),
        )
    if own:
        progress.note(f"{folder}: {len(own)} images beside the class folders are not used")
    paths = [path for images in members.values() for path in images]
    labels = [label for label, images in enumerate(members.values()) for _ in images]
    return _Listing(paths, labels, tuple(path.name for path in members))


def _walk(folder: Path) -> list[Path]:
    """Every image below, sorted; a link that leads back to a folder already seen is not followed again."""
    found, seen = [], set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}.") from error

    for where, inner, names in os.walk(folder, followlinks=True, onerror=refuse):
        state = os.stat(where)
        if (state.st_dev, state.st_ino) in seen:
            inner.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                found.append(Path(where, name))
    return sorted(found)


def _examine(paths: list[Path], progress: Progress) -> list[tuple[str, str]]:
    """For each file the digest of its bytes and, where it cannot be decoded, why."""

    def one(path: Path) -> tuple[str, str]:
        try:
            data = _read(path)
            _decode(data)
        except _UnreadableError as exc:
            return "", str(exc)
        return hashlib.sha256(data).hexdigest(), ""

    results = []
    with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
        warnings.simplefilter("ignore")  # what Pillow finds odd but can read
        for result in pool.map(one, paths):
            results.append(result)
            progress.advance(len(results), len(paths))
    return results


def _read(path: Path) -> bytes:
    if not path.is_file():  # a pipe would make the program wait for ever
        raise _UnreadableError("not a plain file")
    try:
        return path.read_bytes()
    except OSError as exc:
        raise _UnreadableError(exc.strerror or type(exc).__name__) from exc


def decode(data: bytes) -> Image:
    """One image from the bytes of its file: gray or RGB.

    Raises:
        DataError: it is none, is damaged, or claims more than `MOST_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow finds odd but can read
            return _decode(data)
    except _UnreadableError as exc:
        raise DataError(f"the picture cannot be read: {exc}.") from exc


def _decode(data: bytes) -> Image:
    """Gray or RGB; transparency is dropped and orientation tags are not applied, as ImageFolder does."""
    if not data:
        raise _UnreadableError("empty file")
    try:
        with Pillow.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _UnreadableError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
            if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would cut them off at 255
                return _sixteen_bits(np.asarray(image))
            gray = image.mode in ("1", "L", "LA", "La")
            array = np.asarray(image.convert("L" if gray else "RGB"))
            return array[:, :, np.newaxis] if gray else array
    except _UnreadableError:
        raise
    except UnidentifiedImageError as exc:
        raise _UnreadableError("not an image") from exc
    except Exception as exc:  # decoders raise whatever a broken file makes them stumble over
        raise _UnreadableError(str(exc).splitlines()[0] if str(exc) else type(exc).__name__) from exc


def _sixteen_bits(array: Image) -> Image:
    if array.min() < 0 or array.max() > 65535:
        raise _UnreadableError(f"values from {array.min()} to {array.max()} are not those of a 16-bit image")
    scaled: Image = array.astype(np.float32) / np.float32(65535)
    return scaled[:, :, np.newaxis]
