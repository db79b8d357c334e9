"""Find artifacts in the artifacts directory, without importing PyTorch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from deploy.core.artifact import Artifact, Manifest
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.support.engine_file import FORMAT as ENGINE

EXPORTS = ("fp32", "fp16", "fp64")
"""Precisions of `deploy export`."""


def names_of(manifest: Manifest) -> tuple[str, str, str]:
    """Return the names of an artifact's model: full name, slug, and name without its source."""
    return manifest.model, manifest.slug, manifest.model.partition("/")[2]


def newest_export(
    store: Store, progress: Progress, *, name: str | None = None, precisions: Collection[str] = EXPORTS
) -> Artifact:
    """Return the newest ONNX export, of a model by any of its names or of all, and send a message that names it.

    Raises:
        ArtifactError: no export was found.
    """
    for artifact in store.artifacts():
        manifest = artifact.manifest
        matches = name is None or name in names_of(manifest)
        if matches and manifest.format == "onnx" and manifest.precision in precisions and manifest.target is None:
            progress.note(f"using {artifact.path}, the newest export")
            return artifact
    what = "ONNX export" if len(precisions) > 1 else f"{next(iter(precisions))} ONNX export"
    of = f" of {name}" if name else ""
    raise ArtifactError(f"{store.root}: no {what}{of} found.", f"deploy export {name or 'MODEL'} --format onnx")


def manifest_beside(path: Path) -> Artifact | None:
    """Return the artifact of a file; None if it has no valid manifest."""
    try:
        return Artifact.open(path)
    except ArtifactError:
        return None


def newest_variants(store: Store, name: str) -> list[Artifact]:
    """Return the newest runnable artifact of a model, by any of its names, for each format, precision and target."""
    newest: dict[tuple[str, str, str | None], Artifact] = {}
    for artifact in store.artifacts():
        manifest = artifact.manifest
        runs = manifest.format == "onnx" and (manifest.precision == "int8" or manifest.target is None)
        if name in names_of(manifest) and (runs or manifest.format == ENGINE):
            newest.setdefault((manifest.format, manifest.precision, manifest.target), artifact)
    return list(newest.values())
