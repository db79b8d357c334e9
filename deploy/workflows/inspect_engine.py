"""``deploy trt inspect``: what is in an engine, by its manifest and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError
from deploy.workflows._build_job import FORMAT, digest_of


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """What an engine is.

    Attributes:
        artifact: the engine, held against its manifest.
        parent_bytes: of the ONNX file it was built from, where that lies beside it still; else None.
    """

    artifact: Artifact
    parent_bytes: int | None

    @property
    def options(self) -> Mapping[str, Any]:
        """What it was built with."""
        return self.artifact.manifest.options

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            "file": str(self.artifact.path),
            "bytes": manifest.files[0].bytes,
            "parent_bytes": self.parent_bytes,
            "model": manifest.model,
            "precision": manifest.precision,
            "inputs": [asdict(spec) for spec in manifest.inputs],
            "outputs": [asdict(spec) for spec in manifest.outputs],
            "parent": manifest.parent,
            "created": manifest.created,
            **manifest.options,
        }


def inspect_engine(path: Path) -> EngineReport:
    """Read an engine's manifest, and hold the engine against it; it is not deserialised.

    Raises:
        ArtifactError: no such file, no manifest, or not an engine.
        DigestError: the engine is not what its manifest records.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file.")
    artifact = Artifact.open(path)
    if artifact.manifest.format != FORMAT:
        raise ArtifactError(f"{path}: it is {artifact.manifest.format}, not an engine.", f"deploy inspect {path}")
    artifact.verify()
    return EngineReport(artifact=artifact, parent_bytes=_parent_bytes(artifact))


def _parent_bytes(artifact: Artifact) -> int | None:
    for beside in artifact.path.parent.glob("*.onnx"):
        try:
            found = Artifact.open(beside)
        except ArtifactError:
            continue
        if digest_of(found) == artifact.manifest.parent:
            return sum(item.bytes for item in found.manifest.files)
    return None
