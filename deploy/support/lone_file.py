"""ONNX files that were made elsewhere: one without a manifest is an artifact too, and is unproven.

Every command opens here the files that its user names.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from deploy.core.artifact import UNPROVEN, Artifact, Manifest, Payload, join_digests, manifest_path
from deploy.core.backend import ONNX
from deploy.core.model import Weights
from deploy.core.names import RESERVED, is_plain
from deploy.core.plain import from_plain
from deploy.core.regular import read_document
from deploy.core.tensors import TensorSpec, batch_dimension

SUFFIX = ".onnx"


def open_artifact(path: Path) -> Artifact:
    """Open a file as an artifact; an ONNX file without a manifest gets one in memory, from its graph.

    A child process examines such a file. The made manifest names no model: `Manifest.reference` is empty.

    Raises:
        ArtifactError: the manifest is damaged; or there is none, and the file is not ONNX, damaged, or exceeds a limit.
    """
    if path.suffix != SUFFIX or has_manifest(path):
        return Artifact.open(path)
    return Artifact(path=path, manifest=describe_file(path))


def describe_file(path: Path) -> Manifest:
    """Return a manifest of an ONNX file that says what its graph tells; a child process reads the file.

    Raises:
        ArtifactError: the file is missing or damaged, or exceeds a limit.
    """
    from deploy.support.onnx_child import OnnxChild  # imports numpy, which a build does not wait for

    with OnnxChild() as child:
        outline = child.outline(path)
    files = tuple(Payload.of(item) for item in (path, *(path.with_name(name) for name in outline["files"])))
    return Manifest(
        model=path.stem,
        slug=slug_of(path.stem),
        format=ONNX,
        precision=outline["precision"],
        files=files,
        inputs=from_plain(tuple[TensorSpec, ...], outline["inputs"]),
        outputs=from_plain(tuple[TensorSpec, ...], outline["outputs"]),
        weights=Weights(source=str(path), trained=True, sha256=join_digests(item.sha256 for item in files)),
    )


def has_manifest(path: Path) -> bool:
    """Return whether a file has a manifest, valid or not; JSON of another tool in its place is none."""
    beside = manifest_path(path)
    if not os.path.lexists(beside):
        return False
    try:
        document = json.loads(read_document(beside))
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(document, dict) or not {"schema", "files"}.isdisjoint(document)


def slug_of(name: str) -> str:
    """Return the name of the folder for a file of this stem."""
    slug = re.sub(r"[^\w.-]+", "_", name).lstrip(".")
    return slug if is_plain(slug) and slug not in RESERVED else f"onnx_{slug}"


def why_unproven(artifact: Artifact) -> str:
    """Return a sentence that a file is unproven because its model is not known; empty if it is known."""
    if artifact.manifest.reference or artifact.manifest.verdict != UNPROVEN:
        return ""
    reason = "its manifest names no model" if has_manifest(artifact.path) else "it has no manifest"
    return f"{artifact.path} is unproven: {reason}, so it cannot be compared with its model."


def assumed_batch(path: Path, inputs: Sequence[TensorSpec]) -> str:
    """Return a sentence that names the dimension taken for the batch; empty if it is called so, or is fixed."""
    dimension = batch_dimension(inputs)
    if dimension in (None, "batch"):
        return ""
    name = inputs[0].name
    return f"{path}: no dimension is called 'batch'; --batch sets {dimension!r}, the first dimension of {name!r}"


def adopt_command(path: Path, *, preprocess: bool = False) -> str:
    """Return the command that writes the manifest of a file, or replaces it, with the preprocessing of images."""
    words = ["deploy", "adopt", str(path), *(["--force"] if os.path.lexists(manifest_path(path)) else [])]
    example = " --preprocess crop=224 --preprocess mean=0.5,0.5,0.5 --preprocess std=0.5,0.5,0.5"
    return shlex.join(words) + (example if preprocess else "")
