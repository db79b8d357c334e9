"""An artifact is a file with its manifest: what it is, where it came from, and the evidence that it is right."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.core.checked import ChecksumError, dump_checked, load_checked
from deploy.core.environment import machine, now, versions
from deploy.core.errors import ArtifactError, DigestError
from deploy.core.lock import unwritten
from deploy.core.model import Preprocessing, Weights
from deploy.core.tensors import TensorSpec

SCHEMA = 1
_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes.

    Raises:
        ArtifactError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}.") from exc
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """One file of an artifact: its name inside the artifact's folder, its digest, its size in bytes."""

    file: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> Payload:
        """Measure a file."""
        return cls(file=path.name, sha256=sha256(path), bytes=path.stat().st_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All that is known of an artifact; stored as JSON beside it.

    Attributes:
        files: the artifact itself first, then what belongs to it (external data).
        model: full name of the model, ``torchvision/resnet18``.
        reference: rebuilds the model (see `Model.reference`).
        options: what the command was asked for and what it chose.
        parent: digest of the artifact this one was made from.
        parity, accuracy: evidence, as their rooms write it.
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
    reference: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    parity: Mapping[str, Any] | None = None
    accuracy: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    created: str = field(default_factory=now)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The manifest's text: sealed JSON."""
        return dump_checked(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            ArtifactError: it is not JSON, of another schema, or lacks or mistypes a field.
            DigestError: it was changed after it was written.
        """
        try:
            data = load_checked(text)
        except ChecksumError as exc:
            raise DigestError(f"{path}: the manifest is not what was written.", "export the model again") from exc
        except (ValueError, RecursionError) as exc:
            raise ArtifactError(f"{path}: the manifest is not valid JSON: {exc}.") from exc
        if data.get("schema") != SCHEMA:
            found = data.get("schema")
            raise ArtifactError(
                f"{path}: manifest schema {found!r}, this version reads {SCHEMA}.", "export the model again"
            )
        try:
            return cls(**_revive(data))
        except (TypeError, KeyError, ValueError, AttributeError) as exc:
            raise ArtifactError(f"{path}: the manifest is damaged: {exc}.") from exc


def _specs(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            **{
                **item,
                "shape": tuple(item["shape"]),
                "bounds": tuple(item["bounds"]) if item["bounds"] else None,
            }
        )
        for item in items
    )


def _revive(data: dict[str, Any]) -> dict[str, Any]:
    files = tuple(Payload(**item) for item in data["files"])
    for item in files:
        if not isinstance(item.file, str) or not item.file or Path(item.file).name != item.file:
            raise ValueError(f"{item.file!r} is not the name of a file in the same folder")
    if not files:
        raise ValueError("it lists no file")
    preprocessing = data.get("preprocessing")
    if preprocessing:
        tuples = {key: tuple(preprocessing[key]) for key in ("crop", "mean", "std")}
        preprocessing = Preprocessing(**{**preprocessing, **tuples})
    return {
        **data,
        "files": files,
        "inputs": _specs(data["inputs"]),
        "outputs": _specs(data["outputs"]),
        "weights": Weights(**data["weights"]),
        "labels": tuple(data.get("labels", ())),
        "preprocessing": preprocessing,
    }


def manifest_path(path: Path) -> Path:
    """Where the manifest of an artifact lies: beside it, with ``.json`` appended."""
    return path.with_name(path.name + ".json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A file and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Artifact:
        """Read the manifest beside ``path``; the payload is not read (see `verify`).

        Raises:
            ArtifactError: there is none, or it is damaged.
        """
        beside = manifest_path(path)
        if beside.is_symlink():
            raise ArtifactError(f"{beside}: a link, not a manifest.")
        try:
            text = beside.read_text(encoding="utf-8")
        except FileNotFoundError as exc:
            raise ArtifactError(f"{path}: there is no manifest beside it ({beside.name}).") from exc
        except (OSError, UnicodeDecodeError) as exc:
            raise ArtifactError(f"{beside}: cannot be read: {exc}.") from exc
        manifest = Manifest.from_json(text, beside)
        if manifest.files[0].file != path.name:
            raise ArtifactError(f"{beside}: the manifest is of {manifest.files[0].file!r}.")
        return cls(path=path, manifest=manifest)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of it, the manifest last."""
        return *(self.path.with_name(item.file) for item in self.manifest.files), manifest_path(self.path)

    def verify(self) -> None:
        """Hold every payload file against its digest.

        Raises:
            DigestError: one is missing, is not a plain file, or differs; or another process has replaced them since
                the manifest was read.
        """
        try:
            self._hold()
        except DigestError:
            with unwritten(self.path.parent):  # is somebody just replacing it?
                if Artifact.open(self.path).manifest != self.manifest:
                    raise DigestError(f"{self.path}: another process replaced it meanwhile.", "try again") from None
                self._hold()

    def _hold(self) -> None:
        for payload in self.manifest.files:
            path = self.path.with_name(payload.file)
            if path.is_symlink() or not path.is_file():
                raise DigestError(f"{path}: missing, or not a plain file; its manifest lists it.")
            if path.stat().st_size != payload.bytes or sha256(path) != payload.sha256:
                raise DigestError(f"{path}: its content is not what its manifest records.", "export the model again")
