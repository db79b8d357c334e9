"""``deploy trt inspect``: what is in an engine, from its manifest and, if it can be opened here, from itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError, BackendError
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.support.engine_file import arithmetic, engine_fault, read_engine
from deploy.support.engine_layers import Shares, shares
from deploy.support.provenance import Stale, stale_file
from deploy.support.tensorrt_library import deserialize, make_logger, open_library

_WEIGHT_TYPES = {"int8": "int8", "int8-fp16": "int8", "fp8": "fp8", "fp16": "fp16"}
"""Type that some of an engine's weights must have, by precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """Result of `inspect_engine`.

    Attributes:
        artifact: the engine, verified against its manifest.
        parent_bytes: size of the ONNX file that the engine was built from; None if it is not beside the engine.
        closed: why the engine could not be opened here; None if it was.
        shares: types of its layers and weights as the engine reports them; None if it was not opened.
        memory_bytes: GPU memory of an execution context, without the weights; None if it was not opened.
    """

    artifact: Artifact
    parent_bytes: int | None
    closed: str | None
    shares: Shares | None
    memory_bytes: int | None

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the build and what the builder reported, from the manifest."""
        return self.artifact.manifest.options

    @property
    def stale(self) -> Stale | None:
        """Why the engine is stale: made from other weights than the export beside it."""
        return stale_file(self.artifact)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            "file": str(self.artifact.path),
            "bytes": manifest.files[0].bytes,
            "parent_bytes": self.parent_bytes,
            "memory_bytes": self.memory_bytes,
            "model": manifest.model,
            "precision": manifest.precision,
            "inputs": to_plain(manifest.inputs),
            "outputs": to_plain(manifest.outputs),
            "parent": manifest.parent,
            "created": manifest.created,
            "closed": self.closed,
            "shares": to_plain(self.shares),
            "stale": to_plain(self.stale),
            **manifest.options,
            "arithmetic": arithmetic(self.artifact),
        }


def inspect_engine(path: Path, *, progress: Progress = SILENT) -> EngineReport:
    """Verify an engine against its manifest, and open it if it fits the installed library and the GPU.

    Args:
        path: the engine.
        progress: receives progress messages.

    Raises:
        ArtifactError: the file does not exist, has no manifest, or is not an engine.
        DigestError: the engine differs from its manifest.
        BackendError: the engine was opened, and its precision is not the one that its manifest records.
    """
    artifact = read_engine(path)
    closed, types, memory_bytes = _open(artifact, progress)
    return EngineReport(
        artifact=artifact,
        parent_bytes=_parent_bytes(artifact),
        closed=closed,
        shares=types,
        memory_bytes=memory_bytes,
    )


def _open(artifact: Artifact, progress: Progress) -> tuple[str | None, Shares | None, int | None]:
    """Return why the engine cannot be opened here, or its layer types and the memory of a context in bytes."""
    if (reason := engine_fault(artifact)) is not None:
        return reason, None, None
    name = str(artifact.manifest.options["library"])
    library = open_library(name)
    logger = make_logger(library, lambda severity, text: progress.detail(f"{name}: {text}"))
    try:
        engine = deserialize(library, artifact.path.read_bytes(), str(artifact.path), logger)
    except BackendError as exc:
        return exc.message, None, None
    inspector = engine.create_engine_inspector()
    types = shares(inspector.get_engine_information(library.module.LayerInformationFormat.JSON))
    check_shares(artifact, types)
    return None, types, int(engine.device_memory_size_v2)


def check_shares(artifact: Artifact, types: Shares) -> None:
    """Raise `BackendError` if an engine reports types of weights and none is the one that its manifest records."""
    precision = artifact.manifest.precision
    expected = _WEIGHT_TYPES.get(precision)
    if expected and types.weights and expected not in types.weights:
        actual = ", ".join(f"{count} in {name}" for name, count in types.weights.items())
        raise BackendError(
            f"{artifact.path}: the engine was built for {precision}, and none of its weights are in {expected}: "
            f"{actual}.",
            f"rebuild with: {artifact.manifest.options['rebuild']}",
        )


def _parent_bytes(artifact: Artifact) -> int | None:
    for path in artifact.path.parent.glob("*.onnx"):
        try:
            parent = Artifact.open(path)
        except ArtifactError:
            continue
        if parent.manifest.digest == artifact.manifest.parent:
            return sum(item.bytes for item in parent.manifest.files)
    return None
