"""``deploy trt inspect``: what is in an engine, by its manifest, its bytes, and where it can be opened by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError, BackendError, DeployError
from deploy.core.progress import SILENT, Progress
from deploy.support.cuda_driver import gpus
from deploy.support.engine_file import read_engine, refusal
from deploy.support.engine_layers import Shares, shares
from deploy.support.tensorrt_library import cuda_major, deserialize, driver_fault, make_logger, open_library

WANTED = {"int8": "int8", "int8-fp16": "int8", "fp16": "fp16"}
"""A type that some of an engine's weights must be in, by the precision it was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """What an engine is.

    Attributes:
        artifact: the engine, held against its manifest.
        parent_bytes: of the ONNX file it was built from, where that lies beside it still; else None.
        closed: why it was not opened here; None where it was.
        shares: what its layers and weights are in, by the engine itself; None where it was not opened.
        memory_bytes: of the GPU, that a context takes beside the weights; None where it was not opened.
    """

    artifact: Artifact
    parent_bytes: int | None
    closed: str | None
    shares: Shares | None
    memory_bytes: int | None

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
            "memory_bytes": self.memory_bytes,
            "model": manifest.model,
            "precision": manifest.precision,
            "inputs": [asdict(spec) for spec in manifest.inputs],
            "outputs": [asdict(spec) for spec in manifest.outputs],
            "parent": manifest.parent,
            "created": manifest.created,
            "closed": self.closed,
            "shares": self.shares.to_dict() if self.shares else None,
            **manifest.options,
        }


def inspect_engine(path: Path, *, progress: Progress = SILENT) -> EngineReport:
    """Read an engine's manifest, hold the engine against it, and open it where it fits what is here.

    Args:
        path: the engine.
        progress: told what the library says.

    Raises:
        ArtifactError: no such file, no manifest, or not an engine.
        DigestError: the engine is not what its manifest records.
        BackendError: it was opened, and is not in the precision that its manifest records.
    """
    artifact = read_engine(path)
    closed, found, memory = _open(artifact, progress)
    return EngineReport(
        artifact=artifact,
        parent_bytes=_parent_bytes(artifact),
        closed=closed,
        shares=found,
        memory_bytes=memory,
    )


def _open(artifact: Artifact, progress: Progress) -> tuple[str | None, Shares | None, int | None]:
    name = str(artifact.manifest.options["library"])
    try:
        library = open_library(name)
    except DeployError as exc:
        return exc.message, None, None
    gpu = next(iter(gpus()), None)
    why = refusal(artifact, library.version, gpu) or driver_fault(library, gpu, cuda_major(name))
    if why is not None:
        return why, None, None
    logger = make_logger(library, lambda severity, text: progress.detail(f"{name}: {text}"))
    try:
        engine = deserialize(library, artifact.path.read_bytes(), str(artifact.path), logger)
    except BackendError as exc:
        return exc.message, None, None
    told = engine.create_engine_inspector().get_engine_information(library.module.LayerInformationFormat.JSON)
    held = shares(told)
    check_shares(artifact, held)
    return None, held, int(engine.device_memory_size_v2)


def check_shares(artifact: Artifact, found: Shares) -> None:
    """An engine that says what its weights are in must hold some in the precision that was asked for.

    Raises:
        BackendError: it holds none.
    """
    precision = artifact.manifest.precision
    wanted = WANTED.get(precision)
    if wanted and found.weights and wanted not in found.weights:
        told = ", ".join(f"{count} in {kind}" for kind, count in found.weights.items())
        raise BackendError(
            f"{artifact.path}: asked for {precision}, and the engine's weights are {told}.",
            f"rebuild with: {artifact.manifest.options['rebuild']}",
        )


def _parent_bytes(artifact: Artifact) -> int | None:
    for beside in artifact.path.parent.glob("*.onnx"):
        try:
            found = Artifact.open(beside)
        except ArtifactError:
            continue
        if found.manifest.digest == artifact.manifest.parent:
            return sum(item.bytes for item in found.manifest.files)
    return None
