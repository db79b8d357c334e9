"""The float graph that is quantized, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, Manifest, join_digests, sha256
from deploy.core.errors import ArtifactError
from deploy.core.model import Preprocessing, Weights
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec
from deploy.support.lookup import manifest_beside, newest_export

PRECISION = "fp32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A float32 ONNX file.

    Attributes:
        preprocessing: how images become its input, the user's changes applied; None where nothing says.
        digest: SHA-256 of the file, and of its external data where there is any.
        manifest: None for a file that somebody else made.
    """

    path: Path
    model: str
    slug: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing | None
    labels: tuple[str, ...]
    weights: Weights
    digest: str
    manifest: Manifest | None

    def derived(self, **changes: Any) -> Manifest:
        """The manifest of what was made from it: whose model it is stays, ``changes`` are its other fields."""
        return Manifest(
            model=self.model,
            slug=self.slug,
            inputs=self.inputs,
            outputs=self.outputs,
            weights=self.weights,
            preprocessing=self.preprocessing,
            labels=self.labels,
            reference=self.manifest.reference if self.manifest else {},
            **{"parent": self.digest, **changes},
        )


def open_source(model: str | Path | None, store: Store, preprocess: Sequence[str], progress: Progress) -> Source:
    """Find, or make, the float32 export that is meant, and hold it against its digest.

    Args:
        model: a name, an ONNX file, or None for the newest float32 export.
        store: where exports are.
        preprocess: ``key=value`` changes to the preprocessing.
        progress: told what was taken.

    Raises:
        ArtifactError: no such file, or not a float32 ONNX file.
        DigestError: it is not what its manifest records.
    """
    path, artifact = _find(model, store, progress)
    if artifact is not None:
        artifact.verify()
        manifest = artifact.manifest
        if manifest.precision != PRECISION:
            raise ArtifactError(f"{path}: it is {manifest.precision}; only a {PRECISION} export can be quantized.")
        return Source(
            path=path,
            model=manifest.model,
            slug=manifest.slug,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            preprocessing=_changed(manifest.preprocessing, preprocess),
            labels=manifest.labels,
            weights=manifest.weights,
            digest=manifest.digest,
            manifest=manifest,
        )
    progress.note(f"{path}: nobody's manifest lies beside it; its parity is not known")
    from deploy.support import onnx_file  # imports onnx

    inputs, outputs = onnx_file.input_output_specs(path)
    digest = join_digests(sha256(item) for item in (path, *onnx_file.external_files(onnx_file.load(path), path)))
    return Source(
        path=path,
        model=path.stem,
        slug=path.stem,
        inputs=inputs,
        outputs=outputs,
        preprocessing=_changed(None, preprocess),
        labels=(),
        weights=Weights(source=path.name, trained=True, sha256=digest),
        digest=digest,
        manifest=None,
    )


def _changed(known: Preprocessing | None, preprocess: Sequence[str]) -> Preprocessing | None:
    if not preprocess:
        return known
    from deploy.quantization.data import override  # imports what reads images

    return override(known, preprocess)


def _find(model: str | Path | None, store: Store, progress: Progress) -> tuple[Path, Artifact | None]:
    if Path(model or "").suffix == ".onnx":
        path = Path(str(model))
        return path, manifest_beside(path)
    try:
        artifact = newest_export(store, progress, name=None if model is None else str(model), precisions=(PRECISION,))
    except ArtifactError:
        if model is None:
            raise
    else:
        return artifact.path, artifact
    progress.note(f"there is no {PRECISION} export of {model} yet: making it")
    from deploy.exporting.export import export_model  # imports PyTorch

    report = export_model(str(model), artifacts=store.root, progress=progress)
    if report.parity.verdict == "fail":
        raise ArtifactError(f"the export of {model} is not equal to it, so it is not quantized.", "deploy export tells")
    return report.artifact.path, report.artifact
