"""Checks before a TensorRT engine is opened: an engine contains code and fits one library, GPU and graph."""

from __future__ import annotations

from pathlib import Path

from deploy.core.artifact import Artifact, sha256, split_digests
from deploy.core.errors import ArtifactError, DeployError, DigestError
from deploy.support.cuda_driver import Gpu, gpus
from deploy.support.tensorrt_library import Library, cuda_major, driver_fault, open_library

FORMAT = "engine"


def read_engine(path: Path) -> Artifact:
    """Return an engine with its manifest after comparing the file with its digest; nothing is deserialized.

    Raises:
        ArtifactError: no such file, no manifest, or not an engine.
        DigestError: the file differs from its manifest.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file.")
    try:
        artifact = Artifact.open(path)
    except DigestError:
        raise
    except ArtifactError as exc:
        hint = "engines contain code, so one without a manifest is not opened; build it with deploy trt build"
        raise ArtifactError(exc.message, hint) from exc
    if artifact.manifest.format != FORMAT:
        raise ArtifactError(f"{path}: not an engine but {artifact.manifest.format}.", f"deploy inspect {path}")
    _check_options(artifact)
    try:
        artifact.verify()
    except DigestError as exc:
        raise DigestError(exc.message, f"rebuild with: {artifact.manifest.options['rebuild']}") from exc
    return artifact


def arithmetic(artifact: Artifact) -> str | None:
    """Return what is known of the arithmetic of an INT8 or FP8 engine of TensorRT for RTX; None for other engines.

    The parsed network shows the types of the graph. NVIDIA's support matrices of TensorRT for RTX 1.0 to 1.5 list INT8
    for weights only, so layers with INT8 weights may compute in floating point.
    """
    manifest = artifact.manifest
    if manifest.options["library"] != "tensorrt-rtx" or not manifest.precision.startswith(("int8", "fp8")):
        return None
    return "decided on the GPU that runs it; not observed"


def _check_options(artifact: Artifact) -> None:
    missing = {"library", "version", "profiles", "compute_capabilities", "rebuild"} - set(artifact.manifest.options)
    if missing:
        raise ArtifactError(f"{artifact.path}: the manifest lacks {', '.join(sorted(missing))}.", "deploy trt build")


def engine_fault(artifact: Artifact) -> str | None:
    """Return why an engine cannot run on the first GPU of this machine, from its manifest; None if it can.

    Raises:
        ArtifactError: the manifest does not say what the engine was built with.
    """
    _check_options(artifact)
    name = str(artifact.manifest.options["library"])
    try:
        library = open_library(name)
    except DeployError as exc:
        return exc.message
    gpu = next(iter(gpus()), None)
    return refusal(artifact, library, gpu) or driver_fault(library, gpu, cuda_major(name))


def refusal(artifact: Artifact, library: Library, gpu: Gpu | None) -> str | None:
    """Return why an engine from `read_engine` cannot run here, with the command that rebuilds it; None if it can.

    Args:
        artifact: the engine.
        library: the library that the engine was built with, in its installed version.
        gpu: the GPU that will run it; None skips the comparison of GPUs.
    """
    options = artifact.manifest.options
    comparisons = [
        _difference(f"{options['library']} {options['version']}", f"{library.name} {library.version}"),
        _other_gpu(artifact, library, gpu) if gpu else None,
        _other_graph(artifact),
    ]
    first = next((pair for pair in comparisons if pair is not None), None)
    if first is None:
        return None
    return f"{artifact.path}: built with {first[0]}, found {first[1]}, rebuild with: {options['rebuild']}"


def _difference(built: str, found: str) -> tuple[str, str] | None:
    return None if built == found else (built, found)


def _other_gpu(artifact: Artifact, library: Library, gpu: Gpu) -> tuple[str, str] | None:
    """Compare the GPU: TensorRT builds for one GPU; TensorRT for RTX for the compute capabilities it was given, or all.

    All are those that the library knows.
    """
    options = artifact.manifest.options
    here = f"{gpu.name} (compute capability {gpu.capability})"
    if options["library"] == "tensorrt":
        built = options.get("gpu") or {}
        return _difference(f"{built.get('name')} (compute capability {built.get('capability')})", here)
    supported = options["compute_capabilities"] or library.capabilities
    if gpu.capability not in supported:
        return f"compute capabilities {', '.join(supported)}", here
    return None


def _other_graph(artifact: Artifact) -> tuple[str, str] | None:
    """Compare the graph beside the engine with the one that the engine was built from."""
    name = str(artifact.manifest.options.get("onnx") or "")
    beside = artifact.path.with_name(name) if name and Path(name).name == name else None
    if beside is None or not beside.is_file() or artifact.manifest.parent is None:
        return None
    built = split_digests(artifact.manifest.parent)[0]  # the graph; the others are its external data
    found = sha256(beside)
    return None if found == built else (f"{name} of digest {built[:12]}…", f"{found[:12]}…")
