"""Which artifacts may be served or packaged: unchanged, with trained weights, and checked for parity if that can be."""

from __future__ import annotations

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.support.lone_file import why_unproven
from deploy.support.onnx_child import examine
from deploy.support.provenance import stale_file
from deploy.support.recorded_command import recorded_command

ACCEPTED = ("pass", "measured")
"""Verdicts that permit a release: of float files, and of INT8 files, whose error was measured."""


def check_release(artifact: Artifact, *, allow_untrained: bool, progress: Progress) -> None:
    """Refuse an artifact that must not be served or packaged; untrained weights may be allowed, with a warning.

    A file whose model is not known is unproven, which is a warning.

    Raises:
        DigestError: the file differs from its manifest.
        ArtifactError: it is damaged or exceeds a limit, did not pass the parity check, or has untrained weights.
    """
    manifest = artifact.manifest
    if unproven := why_unproven(artifact):
        progress.warn(unproven)
    elif manifest.verdict not in ACCEPTED:
        raise ArtifactError(
            f"{artifact.path}: refused, the parity verdict is {manifest.verdict}.",
            recorded_command(manifest, "mend") or f"deploy check {manifest.model} --onnx {artifact.path}",
        )
    if not manifest.weights.trained:
        untrained = f"{artifact.path}: the weights are untrained ({manifest.weights.source}), outputs are meaningless."
        if not allow_untrained:
            raise ArtifactError(untrained, "export trained weights (--weights FILE), or pass --allow-untrained")
        progress.warn(untrained)
    if stale := stale_file(artifact):
        progress.warn(str(stale))
    artifact.verify()
    examine([artifact])
