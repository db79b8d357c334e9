"""What is held against an engine before it is opened: an engine is code, and fits one library, GPU and graph."""

from __future__ import annotations

from pathlib import Path

from deploy.core.artifact import Artifact, sha256
from deploy.core.errors import ArtifactError, DigestError
from deploy.support.cuda_driver import Gpu

FORMAT = "engine"


def read_engine(path: Path) -> Artifact:
    """The engine's manifest, the file held against its digest; nothing is deserialized.

    Raises:
        ArtifactError: no such file, no manifest, or not an engine.
        DigestError: the engine is not what its manifest records.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file.")
    try:
        artifact = Artifact.open(path)
    except DigestError:
        raise
    except ArtifactError as exc:
        hint = (
            "an engine is code: one that nobody vouches for is not opened; deploy trt build makes one with a manifest"
        )
        raise ArtifactError(exc.message, hint) from exc
    if artifact.manifest.format != FORMAT:
        raise ArtifactError(f"{path}: it is {artifact.manifest.format}, not an engine.", f"deploy inspect {path}")
    missing = {"library", "version", "profiles", "compute_capabilities", "rebuild"} - set(artifact.manifest.options)
    if missing:
        raise ArtifactError(
            f"{path}: its manifest does not say its {', '.join(sorted(missing))}.", "deploy trt build makes it again"
        )
    try:
        artifact.verify()
    except DigestError as exc:
        raise DigestError(exc.message, f"rebuild with: {artifact.manifest.options['rebuild']}") from exc
    return artifact


def refusal(artifact: Artifact, version: str, gpu: Gpu | None) -> str | None:
    """Why an engine does not fit what is here, in one sentence that ends in the command that mends it; None if it does.

    Args:
        artifact: as `read_engine` gives it.
        version: of the library that it was built with, as it is installed here.
        gpu: that is to run it; None where there is none, and then the GPU is not compared.
    """
    options = artifact.manifest.options
    found = [
        _pair(f"{options['library']} {options['version']}", f"{options['library']} {version}"),
        _gpu(artifact, gpu) if gpu else None,
        _parent(artifact),
    ]
    first = next((pair for pair in found if pair is not None), None)
    if first is None:
        return None
    return f"{artifact.path}: built with {first[0]}, found {first[1]}, rebuild with: {options['rebuild']}"


def _pair(built: str, found: str) -> tuple[str, str] | None:
    return None if built == found else (built, found)


def _gpu(artifact: Artifact, gpu: Gpu) -> tuple[str, str] | None:
    """TensorRT times kernels on one GPU; TensorRT for RTX compiles for those that it was told."""
    options = artifact.manifest.options
    here = f"{gpu.name} (compute capability {gpu.capability})"
    if options["library"] == "tensorrt":
        made = options.get("gpu") or {}
        return _pair(f"{made.get('name')} (compute capability {made.get('capability')})", here)
    wanted = options["compute_capabilities"]
    if wanted and gpu.capability not in wanted:
        return f"compute capabilities {', '.join(wanted)}", here
    return None


def _parent(artifact: Artifact) -> tuple[str, str] | None:
    """The graph beside the engine is another one than it was built from: the engine is of yesterday's model."""
    name = str(artifact.manifest.options.get("onnx") or "")
    beside = artifact.path.with_name(name) if name and Path(name).name == name else None
    if beside is None or not beside.is_file() or artifact.manifest.parent is None:
        return None
    first = artifact.manifest.parent.partition("+")[0]  # of the graph; what follows is of its external data
    found = sha256(beside)
    return None if found == first else (f"{name} of digest {first[:12]}…", f"{found[:12]}…")
