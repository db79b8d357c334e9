"""``deploy trt preflight``: where an engine will run, from its manifest and the installed library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact
from deploy.core.errors import DeployError
from deploy.support.engine_file import engine_fault, read_engine
from deploy.support.tensorrt_library import cuda_major, open_library


@dataclass(frozen=True, kw_only=True, slots=True)
class PreflightReport:
    """Result of `preflight_engine`.

    Attributes:
        artifact: the engine, verified against its manifest.
        library: name and version of the library that must be installed where it runs, in exactly this version.
        gpu: name of the only GPU that an engine of TensorRT runs on; None for TensorRT for RTX.
        capabilities: compute capabilities that it runs on; empty if they are not known here.
        cuda: CUDA version that the driver must support at least, ``13.0``; None if it is not known here.
        missing: the compute capabilities that were asked for and are not among them.
        here: why it does not run on this machine; None if nothing is known against it.
    """

    artifact: Artifact
    library: str
    gpu: str | None
    capabilities: tuple[str, ...]
    cuda: str | None
    missing: tuple[str, ...]
    here: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "file": str(self.artifact.path),
            "library": self.library,
            "gpu": self.gpu,
            "capabilities": list(self.capabilities),
            "cuda": self.cuda,
            "missing": list(self.missing),
            "here": self.here,
        }


def preflight_engine(path: Path, *, compute_capabilities: Sequence[str] = ()) -> PreflightReport:
    """Return where an engine will run; the engine is not opened, and no GPU is needed.

    What an engine for all GPUs runs on, and the driver that it needs, are known from the library if it is installed in
    the engine's version.

    Args:
        path: the engine.
        compute_capabilities: GPUs on which it must run, such as ``8.9``.

    Raises:
        ArtifactError: the file does not exist, has no manifest, or is not an engine.
        DigestError: the engine differs from its manifest.
    """
    artifact = read_engine(path)
    options = artifact.manifest.options
    name, built = str(options["library"]), options.get("gpu") or {}
    known, cuda = _of_library(name, str(options["version"]))
    if name == "tensorrt":
        known = (str(built["capability"]),) if built else ()
    else:
        known = tuple(options["compute_capabilities"]) or known
    return PreflightReport(
        artifact=artifact,
        library=f"{name} {options['version']}",
        gpu=built.get("name") if name == "tensorrt" else None,
        capabilities=known,
        cuda=cuda,
        missing=tuple(item for item in compute_capabilities if item not in known),
        here=engine_fault(artifact),
    )


def _of_library(name: str, version: str) -> tuple[tuple[str, ...], str | None]:
    """Return the compute capabilities that a library knows and the CUDA version that it needs, if it is installed."""
    try:
        library = open_library(name)
    except DeployError:
        return (), None
    if library.version != version:
        return (), None
    major = cuda_major(name)
    return library.capabilities, f"{major}.0" if major else None
