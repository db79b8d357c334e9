"""An artifact: a file with its manifest, which records what the file is, how it was made, and its parity check."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.core.checked import ChecksumError, dump_checked, load_checked
from deploy.core.environment import machine, now, versions
from deploy.core.errors import ArtifactError, DigestError
from deploy.core.lock import unwritten
from deploy.core.model import Preprocessing, Weights
from deploy.core.names import PENDING, colliding, is_plain
from deploy.core.plain import from_plain, to_plain
from deploy.core.regular import file_size, is_file, read_document
from deploy.core.tensors import TensorSpec

SCHEMA = 2
UNPROVEN = "unproven"
"""Verdict of a file that was not compared with its model."""
AGAIN = "create the file again, or restore it from a copy"
_CHUNK_BYTES = 1 << 20


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal digits.

    Raises:
        ArtifactError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if not path.is_file():  # reading a pipe would wait
            raise FileNotFoundError(errno.ENOENT, "not a file" if path.exists() else "no such file")
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}.") from exc
    return digest.hexdigest()


def join_digests(digests: Iterable[str]) -> str:
    """Return one identifier for several files: their digests, joined by ``+``, that of the graph or engine first."""
    return "+".join(digests)


def split_digests(joined: str) -> list[str]:
    """Return the digests that `join_digests` joined."""
    return joined.split("+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """One file of an artifact: its name in the artifact's folder, its SHA-256 digest, its size in bytes."""

    file: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> Payload:
        """Measure a file."""
        return cls(file=path.name, sha256=sha256(path), bytes=path.stat().st_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The description of an artifact, stored as JSON beside it.

    Attributes:
        files: the artifact itself, then the files that belong to it (external data).
        model: full name of the model, ``torchvision/resnet18``.
        task: what the outputs are, see `deploy.tasks.task`; None: as they show.
        postprocessing: the form of a detector's outputs, see `deploy.tasks.postprocessing.Postprocessing`.
        reference: rebuilds the model (see `Model.reference`); empty if the model is not known.
        options: options of the command, and what it decided itself.
        parent: `digest` of the artifact that this one was made from.
        parity, accuracy: results of the parity check and of the evaluation.
    """

    model: str
    slug: str
    format: str
    precision: str
    files: tuple[Payload, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: Weights
    target: str | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    task: str | None = None
    postprocessing: Mapping[str, Any] | None = None
    reference: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    parity: Mapping[str, Any] | None = None
    accuracy: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    created: str = field(default_factory=now)
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """The joined digests of all files (`join_digests`)."""
        return join_digests(item.sha256 for item in self.files)

    @property
    def verdict(self) -> str:
        """The verdict of the parity check; ``unproven`` if there was none."""
        return str((self.parity or {}).get("verdict", UNPROVEN))

    def to_json(self) -> str:
        """Return the manifest as JSON with a checksum."""
        return dump_checked(to_plain(self))

    @classmethod
    def from_json(cls, text: str, path: Path) -> Manifest:
        """Parse a manifest; ``path`` is its file, for error messages.

        Raises:
            ArtifactError: the text is not JSON, has another schema, or a field is missing, unknown or of a wrong type.
            DigestError: the text was changed after it was written.
        """
        try:
            data = load_checked(text)
        except ChecksumError as exc:
            raise DigestError(f"{path}: the manifest was changed after it was written.", AGAIN) from exc
        except (ValueError, RecursionError) as exc:
            raise ArtifactError(f"{path}: the manifest is not valid JSON: {exc}.") from exc
        schema = data.get("schema")
        if schema != SCHEMA:
            raise ArtifactError(
                f"{path}: the manifest has schema {schema!r}; this version reads schema {SCHEMA}.", AGAIN
            )
        try:
            manifest = from_plain(cls, data)
            _check(manifest, set(data))
        except ValueError as exc:
            raise ArtifactError(f"{path}: the manifest is damaged: {exc}.") from exc
        return manifest


def _check(manifest: Manifest, fields: set[str]) -> None:
    unknown = fields - {item.name for item in dataclasses.fields(Manifest)}
    if unknown:
        raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
    if not manifest.files:
        raise ValueError("no files are listed")
    if not is_plain(manifest.slug):
        raise ValueError(f"the slug {manifest.slug!r} is not the name of a folder")
    names = [item.file for item in manifest.files]
    for name in names:
        if not is_plain(name):
            raise ValueError(f"{name!r} is not the name of a file in the same folder")
    if same := colliding([manifest_path(Path(names[0])).name, *names]):
        raise ValueError(f"{same[0]!r} is listed twice, or differs from another name only in case")


def manifest_path(path: Path) -> Path:
    """Return the path of an artifact's manifest: beside it, with ``.json`` appended."""
    return path.with_name(path.name + ".json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A file and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Artifact:
        """Read the manifest of a file; the file itself is not read (see `verify`).

        Raises:
            ArtifactError: there is no manifest, or it is damaged.
        """
        beside = manifest_path(path)
        try:
            text = read_document(beside)
        except FileNotFoundError as exc:
            raise ArtifactError(f"{path}: no manifest found ({beside.name}).") from exc
        except (OSError, ValueError) as exc:
            raise ArtifactError(f"{beside}: cannot be read: {exc}.") from exc
        manifest = Manifest.from_json(text, beside)
        if manifest.files[0].file != path.name:
            raise ArtifactError(f"{beside}: the manifest belongs to another file, {manifest.files[0].file!r}.")
        return cls(path=path, manifest=manifest)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of the artifact, the manifest last."""
        return *(self.path.with_name(item.file) for item in self.manifest.files), manifest_path(self.path)

    def verify(self) -> None:
        """Compare every file of the artifact with its digest.

        Raises:
            DigestError: a file is missing, is not a regular file, or differs; or another process replaced the files
                since the manifest was read, or was killed while it published them.
            ArtifactError: a file cannot be read.
            StorageError: a file differs, and the folder's lock file is not one.
        """
        try:
            self.compare_files(self.path.parent)
        except ArtifactError:  # also a file that was replaced while it was opened
            folder = self.path.parent
            with unwritten(folder):  # another process may be replacing the artifact
                if any(folder.glob(f"{PENDING}*")):
                    raise DigestError(
                        f"{self.path}: a process was killed while it published files in this folder.",
                        "run its command again, which also moves these files to their places",
                    ) from None
                if manifest_path(self.path).exists() and Artifact.open(self.path).manifest != self.manifest:
                    raise DigestError(f"{self.path}: another process replaced the file.", "try again") from None
                self.compare_files(folder)

    def facts(self) -> dict[str, Any]:
        """Return where the files are, their size in bytes and their precision, as plain values for JSON."""
        return {
            "file": str(self.path),
            "bytes": sum(item.bytes for item in self.manifest.files),
            "files": [item.file for item in self.manifest.files],
            "precision": self.manifest.precision,
        }

    def compare_files(self, folder: Path, moved: Path | None = None) -> None:
        """Compare the artifact's files in a folder with their digests, in ``moved`` where that contains them.

        Raises:
            DigestError: a file is missing, is not a regular file, or differs.
            ArtifactError: a file cannot be read.
        """
        for payload in self.manifest.files:
            path = folder / payload.file
            if moved is not None and is_file(moved / payload.file):
                path = moved / payload.file
            size = file_size(path)
            if size is None:
                raise DigestError(f"{path}: missing or not a regular file, but its manifest lists it.")
            if size != payload.bytes or sha256(path) != payload.sha256:
                raise DigestError(f"{path}: the content differs from its manifest.", AGAIN)
