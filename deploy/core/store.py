"""The artifacts directory: files appear complete or not at all.

A file is written to a scratch folder on the same file system, flushed to the disk (``fsync``) and renamed into place;
then the rename is flushed. Several files are published together: one rename of their folder (`PENDING`) publishes them,
and if the process is killed after it, the next process moves the remaining files into place. If the disk refuses a
move, all moves are undone. The manifest is moved last.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.core import interrupt
from deploy.core.artifact import Artifact, Manifest, manifest_path
from deploy.core.errors import ArtifactError, StorageError
from deploy.core.lock import LOCK, locked

SCRATCH = ".scratch-"
"""Prefix of files and folders that are being written; the process ID follows."""
PENDING = ".publishing-"
"""Prefix of folders whose files are complete and are being moved to their places."""
REJECTED = "rejected"
"""Subfolder of a model's folder for files that failed the parity check; they never replace one that passed."""
LIMITS = ".limits"
"""Folder of the measured limits of machines."""
SIGNATURE = "model.sig"
"""Name of a folder's signature file."""
REPORT = "report"
"""Folder of the report."""
_BEFORE, _READY = ".before-", "ready-"


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


def write_file(path: Path, content: bytes) -> None:
    """Write a file, complete and durable or not at all; missing parent folders are created.

    Raises:
        StorageError: the file cannot be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear(path.parent)
        scratch = path.with_name(f"{SCRATCH}{os.getpid()}-{path.name}")
        try:
            scratch.write_bytes(content)
            flush(scratch)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        flush_directory(path.parent)


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
    if not _pending(folder):
        return
    try:
        with locked(folder):  # publishers hold the lock, so pending folders seen now belong to dead processes
            _finish(folder)
    except (OSError, StorageError):
        return


def _pending(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PENDING}*"))


def _finish(folder: Path) -> None:
    for pending in _pending(folder):
        for path in sorted(pending.iterdir(), key=lambda path: path.suffix == ".json"):  # the manifest last
            if not path.name.startswith(_BEFORE):
                os.replace(path, folder / path.name)
        flush_directory(folder)
        shutil.rmtree(pending)


def _move(pending: Path, folder: Path, names: list[str]) -> None:
    """Move files to their places, all or none: on an error the earlier files are restored."""
    moved: list[str] = []
    try:
        for name in names:
            if (folder / name).exists():
                _back_up(folder / name, pending / f"{_BEFORE}{name}")
            moved.append(name)
            os.replace(pending / name, folder / name)
        flush_directory(folder)
    except BaseException:
        for name in reversed(moved):
            if not (pending / name).exists():
                os.replace(folder / name, pending / name)
            if (pending / f"{_BEFORE}{name}").exists():
                os.replace(pending / f"{_BEFORE}{name}", folder / name)
        raise


def _back_up(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, copy)


def _listed_files(path: Path) -> set[str]:
    """Return the file names in an artifact's manifest; none where it cannot be read."""
    try:
        return {payload.file for payload in Artifact.open(path).manifest.files}
    except ArtifactError:
        return set()


def clear(folder: Path) -> None:
    """Remove the scratch files and folders of dead processes."""
    for stale in folder.glob(f"{SCRATCH}*"):
        if not _in_use(stale):
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)


def _in_use(scratch: Path) -> bool:
    pid = scratch.name.removeprefix(SCRATCH).partition("-")[0]
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
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
            folder.mkdir(exist_ok=True)
            self.path(beside.name).write_text(manifest.to_json(), encoding="utf-8")
            for name in names:
                flush(self.path(name))
            with locked(folder):
                _finish(folder)
                stale = _listed_files(artifact) - set(names)
                self._make_visible(folder, names)
                for name in stale:
                    (folder / name).unlink(missing_ok=True)
        return Artifact(path=artifact, manifest=manifest)

    def _make_visible(self, folder: Path, names: list[str]) -> None:
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
        shutil.rmtree(pending, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Store:
    """The artifacts directory, which need not exist: one folder per model."""

    root: Path

    def folder(self, slug: str) -> Path:
        """Return the folder of a model's artifacts by the model's short name, ``resnet18``."""
        return self.root / slug

    @contextmanager
    def transaction(self, slug: str) -> Iterator[Transaction]:
        """Yield a place to write artifacts of a model; files that were not published are removed."""
        folder = self.folder(slug)
        fresh = not folder.exists()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            finish(folder)
            clear(folder)
            scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir=folder))
        try:
            yield Transaction(folder, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if fresh and not any(path.name != LOCK for path in folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)

    def artifacts(self, slug: str | None = None) -> list[Artifact]:
        """Return every artifact with a readable manifest, of one model or all, the newest first."""
        for pending in self.root.glob(f"{slug or '*'}/{PENDING}*"):
            finish(pending.parent)
        found = []
        for beside in self.root.glob(f"{slug or '*'}/*.json"):
            try:
                found.append(Artifact.open(beside.with_suffix("")))
            except ArtifactError:
                continue
        return sorted(found, key=lambda artifact: artifact.manifest.created, reverse=True)
