"""``deploy verify``: compare files with the digests in their manifests. Nothing is changed, created or moved."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deploy.core import records
from deploy.core.artifact import Artifact, manifest_path
from deploy.core.brief import brief
from deploy.core.errors import ArtifactError, StorageError
from deploy.core.lock import unwritten
from deploy.core.names import LIMITS, LOCK, PENDING, REPORT, SCRATCH, SIGNATURE
from deploy.core.paths import default_root
from deploy.core.pending import Publication
from deploy.core.plain import to_plain
from deploy.core.regular import entries, is_file, is_folder
from deploy.models.given import text_of
from deploy.support.package_file import PACKAGE, check_package
from deploy.support.provenance import Stale, newest_export_in, stale_file, stale_records

IGNORED = {"README.md", LOCK, ".gitignore", SIGNATURE}
"""Files that need no manifest."""
RETRIES, WAIT_S = 10, 0.1
"""A folder without a lock is read again if it changes meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class VerifyReport:
    """What a file or folder contains; a folder with no artifacts, records or packages has none of all three.

    Attributes:
        sound: artifacts, records and packages that match their digests.
        problems: one message per problem.
        unfinished: publications of killed processes, whose files are whole but not at their places.
        stale: sound files and records that were made from other weights than the export beside them.
    """

    sound: tuple[Path, ...]
    problems: tuple[str, ...]
    unfinished: tuple[Path, ...] = ()
    stale: tuple[Stale, ...] = ()

    def __repr__(self) -> str:
        counts = {"problems": self.problems, "unfinished": self.unfinished, "stale": self.stale}
        return brief(
            self, f"{len(self.sound)} ok", *(f"{len(found)} {name}" for name, found in counts.items() if found)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dict(to_plain(self))


@dataclass(frozen=True, slots=True)
class _Found:
    """The content of one folder."""

    sound: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    stale: list[Stale] = field(default_factory=list)
    listed: set[Path] = field(default_factory=set)


def verify(path: str | Path | Artifact | None = None) -> VerifyReport:
    """Compare a file, or every artifact, record and package in a folder, with its digests.

    Links, pipes, sockets and devices are problems, and nothing behind them is read. A file in an artifact's folder that
    no manifest lists is a problem too. Other processes may write to the folder meanwhile.

    Args:
        path: an artifact, its file, or a folder; None for the default artifacts directory.

    Raises:
        ArtifactError: the path does not exist.
    """
    path = default_root() if path is None else Path(text_of(path))
    if path.is_file():
        target = path.with_suffix("") if path.suffix == ".json" and not manifest_path(path).exists() else path
        parts = [_settled(path.parent, lambda: _check_artifact(target, _Found()))]
    elif not path.is_dir():
        raise ArtifactError(f"{path}: no such file or folder.", "deploy export MODEL")
    else:
        parts = [_settled(folder, partial(_check, folder, path)) for folder in _folders(path)]
    return VerifyReport(
        sound=tuple(item for part in parts for item in part.sound),
        problems=tuple(item for part in parts for item in part.problems),
        unfinished=tuple(item for part in parts for item in part.unfinished),
        stale=tuple(item for part in parts for item in part.stale),
    )


def _folders(root: Path) -> Iterator[Path]:
    """Yield a folder and all folders in it, except those that are being written; a package is one folder."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        yield folder
        if not is_file(folder / PACKAGE):
            names = sorted((path for path in _entries(folder) if is_folder(path)), reverse=True)
            waiting += [path for path in names if not path.name.startswith((SCRATCH, PENDING))]


def _entries(folder: Path) -> list[Path]:
    try:
        return entries(folder)
    except OSError as exc:
        raise ArtifactError(f"{folder}: cannot be read: {exc.strerror}.") from exc


def _settled(folder: Path, check: Callable[[], _Found]) -> _Found:
    """Check a folder; where it seems damaged, again when no other process is writing to it."""
    found = check()
    if not found.problems and not found.unfinished:
        return found
    try:
        with unwritten(folder) as without_writers:
            if without_writers:
                return check()
    except StorageError:  # not a lock file, which is among the problems
        pass
    for _ in range(RETRIES):
        before = _state(folder)
        found = check()
        time.sleep(WAIT_S)
        if not found.problems or _state(folder) == before:
            break
    return found


def _state(folder: Path) -> list[tuple[str, int, int, int]]:
    """Return the names in a folder, and what changes when one is written or replaced."""
    states = []
    for path in (folder, *_entries(folder)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        states.append((path.name, status.st_ino, status.st_size, status.st_mtime_ns))
    return states


def _check(folder: Path, root: Path) -> _Found:
    found = _Found()
    if is_file(folder / PACKAGE):
        problems = check_package(folder / PACKAGE)
        found.problems.extend(problems)
        found.sound.extend([] if problems else [folder])
        return found
    present = _entries(folder)
    for path in present:
        if path.name.startswith(PENDING):
            _check_publication(path, found)
        elif os.path.lexists(path) and not is_file(path) and (path.name == LOCK or not is_folder(path)):
            found.problems.append(f"{path}: not a regular file, or a symbolic link.")
    files = [path for path in present if is_file(path)]
    texts = [path for path in files if path.suffix == ".json" and not path.name.startswith(SCRATCH)]
    described = set(texts)  # a calibration table is JSON, but no manifest
    documents = [path for path in texts if manifest_path(path) not in described]
    manifests = []
    read: dict[Path, dict[str, Any]] = {}
    for path in documents:
        if records.is_record(path):
            found.listed.add(path)
            _check_record(path, read, found)
        elif not _is_other(path, root):
            manifests.append(path)
    if folder.name in (records.BENCH, records.EVALUATION):
        found.stale.extend(stale_records(read, newest_export_in(folder.parent)))
    for path in manifests:
        if path not in found.listed:
            _check_artifact(path.with_suffix(""), found)
    if manifests:
        for extra in sorted(set(files) - found.listed):
            if extra.name not in IGNORED:
                found.problems.append(f"{extra}: no manifest lists it.")
    return found


def _check_artifact(target: Path, found: _Found) -> _Found:
    found.listed.update((target, manifest_path(target)))
    try:
        artifact = Artifact.open(target)
        found.listed.update(artifact.paths)
        artifact.compare_files(target.parent)
    except ArtifactError as exc:
        found.problems.append(exc.message)
    else:
        found.sound.append(target)
        if stale := stale_file(artifact):
            found.stale.append(stale)
    return found


def _check_publication(place: Path, found: _Found) -> None:
    """Check a publication in place of the artifact that it replaces, which lacks some of its files."""
    try:
        publication = Publication.open(place)
        publication.verify()
    except ArtifactError as exc:
        found.problems.append(exc.message)
        return
    found.unfinished.append(place)
    found.listed.update(place.with_name(name) for name in publication.before)
    if publication.artifact:
        found.listed.update(publication.artifact.paths)


def _check_record(path: Path, read: dict[Path, dict[str, Any]], found: _Found) -> None:
    try:
        read[path] = records.check(path)
    except ArtifactError as exc:
        found.problems.append(exc.message)
    else:
        found.sound.append(path)


def _is_other(path: Path, root: Path) -> bool:
    """Return whether a document is no result: a log of the load generator, limits of the machine, the report."""
    is_report = path.parent.name == REPORT and path.name == "report.json" and is_file(path.with_name("index.html"))
    inside = path.relative_to(root).parts[:-2]
    return is_report or inside[-1:] in [(name,) for name in records.FOLDERS] or path.parent.name == LIMITS
