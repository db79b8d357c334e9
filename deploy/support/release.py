"""What may leave the workshop: files that are what their manifest says, proven, of trained weights."""

from __future__ import annotations

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress

PROVEN = ("pass", "measured")
"""Verdicts of files that may: of floats, and of INT8 files, whose error was measured."""


def check_release(artifact: Artifact, *, allow_untrained: bool, progress: Progress) -> None:
    """Refuse a file that must not be served or packaged.

    Args:
        artifact: a file of the artifacts directory.
        allow_untrained: weights that mean nothing are warned of, not refused.
        progress: told the warning.

    Raises:
        DigestError: it is not what its manifest says.
        ArtifactError: its parity was not shown, or its weights are untrained.
    """
    manifest = artifact.manifest
    verdict = (manifest.parity or {}).get("verdict", "unproven")
    if verdict not in PROVEN:
        raise ArtifactError(
            f"{artifact.path}: refused, its parity is {verdict}.",
            f"deploy check {manifest.model} --onnx {artifact.path}",
        )
    if not manifest.weights.trained:
        untrained = f"{artifact.path}: its weights are untrained ({manifest.weights.source}): its answers mean nothing."
        if not allow_untrained:
            raise ArtifactError(untrained, "export trained weights (--weights FILE), or try it with --allow-untrained")
        progress.warn(untrained)
    artifact.verify()
