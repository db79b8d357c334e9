"""What a killed process was publishing: a folder `PENDING` with the files that were not moved to their places."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

from deploy.core.artifact import Artifact, Manifest, manifest_path
from deploy.core.errors import ArtifactError
from deploy.core.names import PENDING, REPLACED
from deploy.core.regular import is_file, is_folder, read_document


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication that was not finished.

    Attributes:
        place: its folder, in the folder that the files belong to.
        artifact: what was published, at its final path; None if all files are at their places.
        names: the files that are not, in the order in which they are moved: the manifest last.
        before: names of the files of the artifact that it replaces.
    """

    place: Path
    artifact: Artifact | None
    names: tuple[str, ...]
    before: frozenset[str]

    @classmethod
    def open(cls, place: Path) -> Publication:
        """Read a publication; nothing is changed.

        Raises:
            ArtifactError: it contains anything but regular files that its own manifest lists, or lacks some of them.
        """
        try:
            present = {path.name for path in place.iterdir()} if is_folder(place) else None
        except OSError:
            present = None
        if present is None:
            raise ArtifactError(f"{place}: not a folder that can be read.", f"remove {place}")
        names = {name for name in present if not name.startswith(REPLACED)}
        artifact = _artifact(place, names)
        listed = {path.name for path in artifact.paths} if artifact else set()
        whole = all(is_file(place / name) for name in present) and names <= listed
        if not whole or not all(is_file(place.parent / name) for name in listed - names):
            raise ArtifactError(f"{place}: not what this package was publishing.", f"remove {place}")
        last = manifest_path(artifact.path).name if artifact else ""
        ordered = sorted(names, key=lambda name: (name == last, name))
        manifests = [place / name for name in present if name.startswith(REPLACED) and name.endswith(".json")]
        manifests += [place.with_name(last)] if artifact else []
        return cls(place, artifact, tuple(ordered), frozenset(name for path in manifests for name in _files_of(path)))

    def verify(self) -> None:
        """Compare the files with their digests, where they are now.

        Raises:
            DigestError: a file differs.
        """
        if self.artifact:
            self.artifact.compare_files(self.place.parent, moved=self.place)

    def move(self) -> None:
        """Move the files to their places; the manifest that is replaced is kept until `clean` has used it."""
        for name in self.names:
            kept = self.place / f"{REPLACED}{name}"
            if is_file(self.place.parent / name) and not os.path.lexists(kept):
                back_up(self.place.parent / name, kept)
            os.replace(self.place / name, self.place.parent / name)

    def clean(self) -> None:
        """Remove what was replaced, after the moves are on the disk."""
        remove_unlisted(self.place.parent, self.before)
        shutil.rmtree(self.place)


def publications(folder: Path) -> list[Path]:
    """Return the folders of publications in a folder; `Publication.open` checks that they are."""
    return sorted(folder.glob(f"{PENDING}*"))


def back_up(path: Path, copy: Path) -> None:
    """Keep a file, or a link of its name, that will be replaced."""
    try:
        os.link(path, copy, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a file system without hard links
        shutil.copyfile(path, copy, follow_symlinks=False)


def remove_unlisted(folder: Path, names: Set[str]) -> None:
    """Remove those of some files that no artifact in their folder lists."""
    if not names:
        return
    artifacts = filter(None, (_opened(path.with_suffix("")) for path in folder.glob("*.json")))
    listed = {path.name for artifact in artifacts for path in artifact.paths}
    for name in names - listed:
        if is_file(folder / name):
            (folder / name).unlink(missing_ok=True)


def _artifact(place: Path, names: Iterable[str]) -> Artifact | None:
    """Return the artifact whose manifest is in the folder of a publication, at its final path."""
    manifests = (place / name.removesuffix(".json") for name in names if name.endswith(".json"))
    found = next(filter(None, map(_opened, manifests)), None)
    return found and Artifact(path=place.parent / found.path.name, manifest=found.manifest)


def _files_of(manifest: Path) -> list[str]:
    """Return the files that a manifest lists; none if it is not a valid one."""
    try:
        return [payload.file for payload in Manifest.from_json(read_document(manifest), manifest).files]
    except (ArtifactError, OSError, ValueError):
        return []


def _opened(path: Path) -> Artifact | None:
    try:
        return Artifact.open(path)
    except ArtifactError:
        return None
