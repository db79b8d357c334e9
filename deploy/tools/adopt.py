"""``deploy adopt``: write the manifest of an ONNX file that was made elsewhere."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, manifest_path
from deploy.core.errors import ArtifactError, UsageError
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.core.store import write_file
from deploy.models.preprocessing import check_labels, check_preprocessing, override
from deploy.support.lone_file import SUFFIX, adopt_command, describe_file, slug_of


@dataclass(frozen=True, kw_only=True, slots=True)
class AdoptReport:
    """Result of `adopt`.

    Attributes:
        artifact: the file and the manifest that was written.
        replaced: an earlier manifest was replaced.
    """

    artifact: Artifact
    replaced: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        manifest = self.artifact.manifest
        fields = ("model", "precision", "inputs", "outputs", "preprocessing", "labels", "files")
        return {
            "file": str(self.artifact.path),
            "manifest": str(manifest_path(self.artifact.path)),
            "replaced": self.replaced,
            **{name: to_plain(getattr(manifest, name)) for name in fields},
            "parity": manifest.verdict,
        }


def adopt(
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    preprocess: Sequence[str] = (),
    name: str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> AdoptReport:
    """Write the manifest of an ONNX file beside it; the file becomes an artifact. It stays unproven.

    Args:
        path: the file; it is examined in a child process and not run.
        labels: class names, one for each output of a classifier.
        preprocess: ``key=value`` texts that say how images become the input: ``crop=224``, ``mean=0.5,0.5,0.5``,
            ``std=0.5,0.5,0.5``, and optionally ``resize=256``, ``interpolation=bicubic``, ``gray=true``.
        name: name of the model, and of its folder in the artifacts directory; default: the stem of the file.
        force: replace a manifest.
        progress: receives progress messages.

    Raises:
        ArtifactError: the file does not exist, is damaged, exceeds a limit, or has a manifest and ``force`` is False.
        UsageError: the labels or the preprocessing do not fit the file, or the name cannot be that of a folder.
        StorageError: the manifest cannot be written.
    """
    path = Path(path)
    beside = manifest_path(path)
    replaced = os.path.lexists(beside)
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file.")
    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: not an ONNX file; its name must end with {SUFFIX}.")
    if name is not None and slug_of(name) != name:
        raise UsageError(f"--name {name}: not the name of a folder; use letters, digits, '_', '.' and '-'.")
    if replaced and not force:
        raise ArtifactError(f"{path}: has a manifest: {_said(path)}.", f"to replace it: {adopt_command(path)}")
    with progress.stage(f"reading {path.name}"):
        manifest = describe_file(path)
    manifest = dataclasses.replace(
        manifest,
        model=name or manifest.model,
        slug=name or manifest.slug,
        weights=dataclasses.replace(manifest.weights, source=path.name),
        labels=check_labels(labels, manifest.outputs, str(path)),
        preprocessing=check_preprocessing(override(None, preprocess), manifest.inputs, str(path)),
        options={"adopted": True},
    )
    write_file(beside, manifest.to_json().encode())
    return AdoptReport(artifact=Artifact(path=path, manifest=manifest), replaced=replaced)


def _said(path: Path) -> str:
    """Return what a manifest says in a few words, or why it cannot be read."""
    try:
        manifest = Artifact.open(path).manifest
    except ArtifactError as exc:
        return exc.message.rstrip(".")
    return f"{manifest.model}, {manifest.precision}, parity {manifest.verdict}, of {manifest.created}"
