"""Finding the artifact that a command means, without importing PyTorch: a build from a file does without it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from deploy.core.artifact import Artifact, Manifest
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.support.engine_file import FORMAT as ENGINE

EXPORTS = ("fp32", "fp16")
"""Precisions that `deploy export` gives; what was converted later for a target is no export."""


def names_of(manifest: Manifest) -> tuple[str, str, str]:
    """What the model of an artifact is called: in full, as a folder, and without its source."""
    return manifest.model, manifest.slug, manifest.model.partition("/")[2]


def newest_export(
    store: Store, progress: Progress, *, name: str | None = None, precisions: Collection[str] = EXPORTS
) -> Artifact:
    """The artifact a command means when no file is named: the newest ONNX export (of a model), said aloud.

    Raises:
        ArtifactError: there is none.
    """
    for artifact in store.artifacts():
        manifest = artifact.manifest
        named = name is None or name in names_of(manifest)
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


def newest_of_each(store: Store, name: str) -> list[Artifact]:
    """The newest file that runs of each format, precision and target of a model, by any of its names."""
    newest: dict[tuple[str, str, str | None], Artifact] = {}
    for artifact in store.artifacts():
        manifest = artifact.manifest
        runs = manifest.format == "onnx" and (manifest.precision == "int8" or manifest.target is None)
        if name in names_of(manifest) and (runs or manifest.format == ENGINE):
            newest.setdefault((manifest.format, manifest.precision, manifest.target), artifact)
    return list(newest.values())
