"""Find artifacts in the artifacts directory, without importing PyTorch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from deploy.core.artifact import Artifact, Manifest
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.support.engine_file import FORMAT as ENGINE

EXPORTS = ("fp32", "fp16", "bf16", "fp64")
"""Precisions of `deploy export`."""


def names_of(manifest: Manifest) -> tuple[str, str, str]:
    """Return the names of an artifact's model: full name, slug, and name without its source."""
    return manifest.model, manifest.slug, manifest.model.partition("/")[2]


def is_export(manifest: Manifest) -> bool:
    """Return whether an artifact is a float ONNX file, as `deploy export` writes it."""
    return manifest.format == "onnx" and manifest.precision in EXPORTS and manifest.target is None


def name_for(model: str, slug: str) -> str:
    """Return the name by which commands find the artifacts in one folder: that of the model, unless it differs."""
    return model if slug in (model.partition("/")[2], model.replace("/", "-")) else slug


def name_of(artifact: Artifact) -> str:
    """Return `name_for` of an artifact."""
    return name_for(artifact.manifest.model, artifact.manifest.slug)


def artifacts_of(store: Store, name: str) -> list[Artifact]:
    """Return the artifacts of a model by any of its names, the newest first.

    Of several folders with artifacts of this model, that of the name itself counts, else the one with the newest.
    """
    found = [artifact for artifact in store.artifacts() if name in names_of(artifact.manifest)]
    slugs = list(dict.fromkeys(artifact.manifest.slug for artifact in found))
    own = [slug for slug in (name, name.partition("/")[2], name.replace("/", "-")) if slug in slugs]
    return [artifact for artifact in found if artifact.manifest.slug == (own or slugs)[0]]


def newest_export(
    store: Store, progress: Progress, *, name: str | None = None, precisions: Collection[str] = EXPORTS
) -> Artifact:
    """Return the newest ONNX export, of a model by any of its names or of all, and send a message that names it.

    Raises:
        ArtifactError: no export was found.
    """
    for artifact in store.artifacts() if name is None else artifacts_of(store, name):
        if is_export(artifact.manifest) and artifact.manifest.precision in precisions:
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
    for artifact in artifacts_of(store, name):
        manifest = artifact.manifest
        runs = manifest.format == "onnx" and (manifest.precision == "int8" or manifest.target is None)
        if runs or manifest.format == ENGINE:
            newest.setdefault((manifest.format, manifest.precision, manifest.target), artifact)
    return list(newest.values())
