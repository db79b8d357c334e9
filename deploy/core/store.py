"""The artifacts directory: complete files or none.

A file is written in a scratch folder on the same file system, flushed to the disk (``fsync``), renamed
into place, and the rename itself is flushed. Several files become visible together: the folder that holds them is
renamed once (`PENDING`), and from then on they are published even if the process is killed, for the next one to come
moves what is left. A move that the disk refuses is taken back. The manifest goes last.
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
from deploy.core.lock import locked

SCRATCH = ".scratch-"
PENDING = ".publishing-"
"""Begins the name of a folder whose files are complete and on their way to where they belong."""
_BEFORE, _READY = ".before-", "ready-"
LIMITS = ".limits"
"""Folder of what was found of the machine itself."""
SIGNATURE = "model.sig"
"""Name of the signature of a folder."""
REPORT = "report"
"""Folder of the report, which is made of everything else."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate what the operating system says of ``path``.

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
    """Write one file, complete and durable or not at all, with the folders above it.

    Raises:
        StorageError: the disk refused.
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
    """Make a file durable."""
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
    """Move what a killed process had begun to publish in a folder; where the disk is read-only, it stays."""
    if not _pending(folder):
        return
    try:
        with locked(folder):  # whoever publishes holds the lock: what is seen with it is of the dead
            _finish(folder)
    except OSError:
        return


def _pending(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PENDING}*"))


def _finish(folder: Path) -> None:
    for pending in _pending(folder):
        for path in sorted(pending.iterdir(), key=_manifest_last):
            if not path.name.startswith(_BEFORE):
                os.replace(path, folder / path.name)
        flush_directory(folder)
        shutil.rmtree(pending)


def _manifest_last(path: Path) -> bool:
    return path.suffix == ".json"


def _move(pending: Path, folder: Path, names: list[str]) -> None:
    """Move files to their places, or none of them: what was there before is put back."""
    moved: list[str] = []
    try:
        for name in names:
            if (folder / name).exists():
                _keep(folder / name, pending / f"{_BEFORE}{name}")
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


def _keep(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, copy)


def _files(artifact: Path) -> set[str]:
    """What the manifest there lists; nothing where there is none that can be read."""
    try:
        return {payload.file for payload in Artifact.open(artifact).manifest.files}
    except ArtifactError:
        return set()


def clear(folder: Path) -> None:
    """Remove what dead processes were writing, folders and files."""
    for stale in folder.glob(f"{SCRATCH}*"):
        if not _live(stale):
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)


def _live(folder: Path) -> bool:
    pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True, slots=True)
class Transaction:
    """A scratch folder whose files become visible together when they are published."""

    folder: Path
    scratch: Path

    def path(self, name: str) -> Path:
        """Where to write a file that will be called ``name``."""
        return self.scratch / name

    def publish(self, manifest: Manifest, subfolder: str = "") -> Artifact:
        """Make the files of ``manifest`` durable and visible, replacing earlier ones of the same name.

        Args:
            manifest: lists the files, all written under `path`.
            subfolder: of the model's folder; files in one are kept, and never taken for the model's artifacts.
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
                stale = _files(artifact) - set(names)
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
            os.rename(ready, pending)  # from here on it is published, whatever happens to this process
            _move(pending, folder, names)
        except BaseException:
            if pending.exists():  # the disk refused, and what was there is there again: nobody shall finish it
                os.rename(pending, ready)
            raise
        shutil.rmtree(pending, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Store:
    """The artifacts directory: one folder a model."""

    root: Path

    def folder(self, slug: str) -> Path:
        """Where the artifacts of a model lie."""
        return self.root / slug

    @contextmanager
    def transaction(self, slug: str) -> Iterator[Transaction]:
        """A place to write; nothing of it is left unless it was published.

        Raises:
            StorageError: the disk refused.
        """
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
            if fresh and not any(path.name != ".lock" for path in folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)

    def artifacts(self, slug: str | None = None) -> list[Artifact]:
        """Every artifact with a readable manifest, newest first."""
        for pending in self.root.glob(f"{slug or '*'}/{PENDING}*"):
            finish(pending.parent)
        found = []
        for beside in self.root.glob(f"{slug or '*'}/*.json"):
            try:
                found.append(Artifact.open(beside.with_suffix("")))
            except ArtifactError:
                continue
        return sorted(found, key=lambda artifact: artifact.manifest.created, reverse=True)
