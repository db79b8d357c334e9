"""Which files of an artifacts directory can be made again, and by which commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.core.artifact import Artifact, Manifest
from deploy.core.backend import ENGINE, ONNX
from deploy.core.errors import ArtifactError, DeployError
from deploy.core.names import REJECTED
from deploy.core.store import Store
from deploy.core.tensors import symbols
from deploy.models.open import request_of
from deploy.models.preprocessing import CHANGES
from deploy.support.lookup import artifacts_of, is_export, names_of
from deploy.support.provenance import export_command, newest_export_in, renewing_command

_STEPS = (ONNX, ENGINE)
# fmt: off
_OPTIONS = frozenset((
    "-o", "--arch", "--dynamic", "--input", "--labels", "--name", "--opset", "--outputs", "--precision", "--preprocess",
    "--seed", "--strategy", "--weights",
))
# fmt: on
"""Options of the command that exports again. A value in a manifest must not be taken for another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewal:
    """How a file is made again.

    Attributes:
        artifact: the file that is there.
        words: arguments of ``deploy``; empty if it cannot be made again.
        reason: why it cannot; else empty.
    """

    artifact: Artifact
    words: tuple[str, ...] = ()
    reason: str = ""


def renewals(store: Store, models: Sequence[str]) -> list[Renewal]:
    """Return the files of models, or of all, in the order in which they are made: exports, INT8 files, engines.

    Raises:
        ArtifactError: there are no files.
    """
    found: list[Artifact] = []
    for name in models:
        known = artifacts_of(store, name) if any(name in names_of(item.manifest) for item in store.artifacts()) else []
        if not known:
            raise ArtifactError(f"{store.root}: no files of {name}.", f"deploy export {name}")
        found += known
    if not models:
        found = list(store.artifacts())
    kept = [item for item in found if item.manifest.format in _STEPS and item.path.parent.name != REJECTED]
    if not kept:
        raise ArtifactError(f"{store.root}: no ONNX files or engines.", "deploy export MODEL")
    return [_renewal(item) for item in sorted({item.path: item for item in kept}.values(), key=_order)]


def _order(artifact: Artifact) -> tuple[str, int, str]:
    manifest = artifact.manifest
    step = 0 if is_export(manifest) else 1 if manifest.format == ONNX else 2
    return manifest.slug, step, str(artifact.path)


def _renewal(artifact: Artifact) -> Renewal:
    manifest = artifact.manifest
    if not manifest.reference:
        return Renewal(artifact=artifact, reason="it was made elsewhere")
    try:
        request_of(artifact)
    except DeployError as exc:  # a module in memory, or code that the user did not name
        return Renewal(artifact=artifact, reason=exc.message)
    if is_export(manifest):
        text = export_command(manifest, "--precision", manifest.precision, *_flags(manifest))
        if any(word.startswith("-") and word not in _OPTIONS for word in shlex.split(text)):
            return Renewal(artifact=artifact, reason="its manifest has an option where a value belongs")
    else:
        export = newest_export_in(artifact.path.parent)
        if export is None:
            return Renewal(artifact=artifact, reason="the export that it was made from is not there")
        text = renewing_command(manifest, export.manifest)
    first, *words = shlex.split(text)
    if first != "deploy":
        return Renewal(artifact=artifact, reason="its model was a module in memory")
    if "DATA" in words:
        return Renewal(artifact=artifact, reason="its calibration data is not recorded")
    return Renewal(artifact=artifact, words=tuple(words))


def _flags(manifest: Manifest) -> list[str]:
    """Return the options of an export that its reference does not hold."""
    words = [
        word
        for name in ("opset", "strategy")
        if name in manifest.options
        for word in (f"--{name}", str(manifest.options[name]))
    ]
    if not symbols(manifest.inputs):
        words += ["--dynamic", "none"]
    words += [word for text in manifest.options.get(CHANGES, ()) for word in ("--preprocess", str(text))]
    own = ":" in str(manifest.reference.get("name", ""))
    if own and manifest.labels and not any("," in name for name in manifest.labels):
        words += ["--labels", ",".join(manifest.labels)]
    return words
