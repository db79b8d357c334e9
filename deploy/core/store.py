"""The artifacts directory: files appear complete or not at all.

A file is written to a scratch folder on the same file system, flushed to the disk (``fsync``) and renamed into place;
then the rename is flushed. Several files are published together: one rename of their folder (`PENDING`) publishes them,
and if the process is killed after it, the next writer moves the remaining files into place. If the disk refuses a
move, all moves are undone. The manifest is moved last.

Readers change nothing and create nothing, locks included: until a writer comes, the remaining files stay where they
are. The artifacts directory may be a symbolic link, but what it contains may not: readers pass over links, and writers
refuse them.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.core import interrupt
from deploy.core.artifact import Artifact, Manifest, manifest_path
from deploy.core.errors import ArtifactError, StorageError
from deploy.core.lock import locked
from deploy.core.names import LOCK, PENDING, REPLACED, SCRATCH, is_plain
from deploy.core.paths import default_root
from deploy.core.pending import Publication, back_up, publications, remove_unlisted
from deploy.core.regular import entries, is_file, is_folder

_READY = "ready-"
_SCRATCH_OF = re.compile(rf"{re.escape(SCRATCH)}(\d{{1,9}})-.*", re.DOTALL)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate the operating system's errors within this context; the message names ``path``.

    Raises:
        StorageError: no space, no permission, a read-only or failing disk.
    """
    try:
        yield
    except OSError as exc:
        hint = {
            errno.ENOSPC: "free some space, or choose another directory with --artifacts DIR",
            errno.EACCES: "choose a directory you may write to with --artifacts DIR",
            errno.EROFS: "choose a directory you may write to with --artifacts DIR",
        }.get(exc.errno or 0)
        raise StorageError(f"{path}: cannot be written: {exc.strerror or exc}.", hint) from exc


def write_file(path: Path, content: bytes, *, depth: int = 0) -> None:
    """Write a file, complete and durable or not at all; missing parent folders are created.

    Args:
        path: the file; a link of this name is replaced, not followed.
        content: its bytes.
        depth: number of folders above the file that belong to the artifacts directory and must not be links.

    Raises:
        StorageError: the file cannot be written.
    """
    with storage_errors(path):
        for folder in path.parents[:depth]:
            _refuse_link(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        clear(path.parent)
        scratch = path.with_name(f"{SCRATCH}{os.getpid()}-{path.name}")
        try:
            scratch.unlink(missing_ok=True)  # whatever it is, also a link
            scratch.write_bytes(content)
            flush(scratch)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        flush_directory(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder of the artifacts directory, with its parents, unless it exists.

    Raises:
        StorageError: it is a link or a file.
    """
    _refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _refuse_link(folder: Path) -> None:
    if os.path.lexists(folder) and not is_folder(folder):
        raise StorageError(f"{folder}: a link or a file is in the place of a folder.", f"remove {folder}")


def flush(path: Path) -> None:
    """Make a file durable (``fsync``)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_directory(path: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "posix":
        flush(path)


def finish(folder: Path) -> None:
    """Finish what a killed process was publishing in a folder; a read-only folder is left as it is."""
    if not publications(folder):
        return
    try:
        with locked(folder):  # publishers hold the lock, so publications seen now belong to dead processes
            _finish(folder)
    except (OSError, StorageError):
        return


def _finish(folder: Path) -> None:
    for place in publications(folder):
        try:
            publication = Publication.open(place)
        except ArtifactError:  # of a stranger; `deploy verify` names it
            continue
        publication.move()
        flush_directory(folder)
        publication.clean()


def _move(pending: Path, folder: Path, names: list[str]) -> None:
    """Move files to their places, all or none: on an error the earlier files are restored."""
    moved: list[str] = []
    try:
        for name in names:
            if os.path.lexists(folder / name):
                back_up(folder / name, pending / f"{REPLACED}{name}")
            moved.append(name)
            os.replace(pending / name, folder / name)
        flush_directory(folder)
    except BaseException:
        for name in reversed(moved):
            if not (pending / name).exists():
                os.replace(folder / name, pending / name)
            if os.path.lexists(pending / f"{REPLACED}{name}"):
                os.replace(pending / f"{REPLACED}{name}", folder / name)
        raise


def _listed_files(path: Path) -> set[str]:
    """Return the file names in an artifact's manifest; none where it cannot be read."""
    try:
        return {payload.file for payload in Artifact.open(path).manifest.files}
    except ArtifactError:
        return set()


def clear(folder: Path) -> None:
    """Remove the scratch files and folders of dead processes."""
    for stale in folder.glob(f"{SCRATCH}*"):
        owner = _SCRATCH_OF.fullmatch(stale.name)
        if owner and not _runs(int(owner[1])):
            if is_folder(stale):
                shutil.rmtree(stale, ignore_errors=True)
            elif is_file(stale):
                stale.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        pass
    return True


@dataclass(frozen=True, slots=True)
class Transaction:
    """A scratch folder whose files become visible together when they are published."""

    folder: Path
    scratch: Path

    def path(self, name: str) -> Path:
        """Return where to write the file that will be published as ``name``."""
        return self.scratch / name

    def publish(self, manifest: Manifest, subfolder: str = "") -> Artifact:
        """Make files durable and visible together; they replace an earlier artifact of the same name.

        Args:
            manifest: lists the files, all of them written to `path`.
            subfolder: subfolder of the model's folder; `Store.artifacts` does not list artifacts in it.

        Raises:
            StorageError: the files cannot be written; an earlier artifact is unchanged.
        """
        interrupt.check()
        folder = self.folder / subfolder
        artifact = folder / manifest.files[0].file
        beside = manifest_path(artifact)
        names = [payload.file for payload in reversed(manifest.files)] + [beside.name]
        with storage_errors(artifact):
            make_folder(folder)
            self.path(beside.name).write_text(manifest.to_json(), encoding="utf-8")
            for name in names:
                flush(self.path(name))
            with locked(folder):
                _finish(folder)
                before = _listed_files(artifact)
                self._make_visible(folder, names, before - set(names))
        return Artifact(path=artifact, manifest=manifest)

    def _make_visible(self, folder: Path, names: list[str], stale: set[str]) -> None:
        ready = Path(tempfile.mkdtemp(prefix=_READY, dir=self.scratch))
        pending = folder / f"{PENDING}{os.getpid()}-{ready.name.removeprefix(_READY)}"
        try:
            for name in names:
                os.replace(self.path(name), ready / name)
            flush_directory(ready)
            os.rename(ready, pending)  # from here on the files are published, even if this process is killed
            _move(pending, folder, names)
        except BaseException:
            if pending.exists():  # the moves were undone: no other process may finish them
                os.rename(pending, ready)
            raise
        remove_unlisted(folder, stale)
        shutil.rmtree(pending, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Store:
    """The artifacts directory, which need not exist: one folder per model."""

    root: Path

    @classmethod
    def at(cls, root: str | Path | None) -> Store:
        """Return the artifacts directory at a path, None for ``$DEPLOY_ARTIFACTS``, else ``./artifacts``."""
        return cls(Path(root) if root else default_root())

    def folder(self, slug: str) -> Path:
        """Return the folder of a model's artifacts by the model's short name, ``resnet18``.

        Raises:
            StorageError: the name cannot be that of a folder here.
        """
        if not is_plain(slug):
            raise StorageError(f"{self.root}: {slug!r} cannot be the name of a model's folder.")
        return self.root / slug

    def folders(self) -> list[Path]:
        """Return the folders of all models."""
        try:
            return [path for path in entries(self.root) if is_plain(path.name) and is_folder(path)]
        except OSError:
            return []

    def records(self, subfolder: str, slug: str | None = None) -> list[Path]:
        """Return the JSON files in a subfolder of the folder of a model, or of every model."""
        return [path for folder in self._folders(slug) for path in json_files(folder / subfolder)]

    def _folders(self, slug: str | None) -> list[Path]:
        return [path for path in self.folders() if slug in (None, path.name)]

    @contextmanager
    def transaction(self, slug: str) -> Iterator[Transaction]:
        """Yield a place to write artifacts of a model; files that were not published are removed."""
        folder = self.folder(slug)
        fresh = not os.path.lexists(folder)
        with storage_errors(folder):
            make_folder(folder)
            finish(folder)
            clear(folder)
            scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir=folder))
        try:
            yield Transaction(folder, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if fresh and not any(path.name != LOCK for path in entries(folder)):
                shutil.rmtree(folder, ignore_errors=True)

    def artifacts(self, slug: str | None = None) -> list[Artifact]:
        """Return every artifact with a readable manifest, of one model or all, the newest first."""
        found = []
        for beside in (path for folder in self._folders(slug) for path in json_files(folder)):
            try:
                found.append(Artifact.open(beside.with_suffix("")))
            except ArtifactError:
                continue
        return sorted(found, key=lambda artifact: artifact.manifest.created, reverse=True)


def json_files(folder: Path) -> list[Path]:
    """Return the regular JSON files in a folder, by name; none where it is a link or does not exist.

    Files that are being written are left out.
    """
    found = entries(folder) if is_folder(folder) else []
    return [path for path in found if path.suffix == ".json" and not path.name.startswith(SCRATCH) and is_file(path)]
