"""Finding the artifact that a command means, without importing PyTorch: a build from a file does without it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.core.store import Store

EXPORTS = ("fp32", "fp16")
"""Precisions that `deploy export` gives; what was converted later for a target is no export."""


def newest_export(
    store: Store, progress: Progress, *, name: str | None = None, precisions: Collection[str] = EXPORTS
) -> Artifact:
    """The artifact a command means when no file is named: the newest ONNX export (of a model), said aloud.

    Raises:
        ArtifactError: there is none.
    """
    for artifact in store.artifacts():
        manifest = artifact.manifest
        named = name in (None, manifest.model, manifest.slug, manifest.model.partition("/")[2])
        if named and manifest.format == "onnx" and manifest.precision in precisions and manifest.target is None:
            progress.note(f"taking {artifact.path}, the newest export")
            return artifact
    what = "ONNX export" if len(precisions) > 1 else f"{next(iter(precisions))} ONNX export"
    of = f" of {name}" if name else ""
    raise ArtifactError(f"{store.root}: no {what}{of} there.", f"deploy export {name or 'MODEL'} --format onnx")


def manifest_beside(path: Path) -> Artifact | None:
    """The artifact of a file, if it has a manifest of ours."""
    try:
        return Artifact.open(path)
    except ArtifactError:
        return None
