"""The float32 export that INT8 graphs and engines are made from.

Imports neither PyTorch nor numpy nor ONNX at module level: a float32 engine is built without them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, Manifest, join_digests, sha256
from deploy.core.errors import ArtifactError, UsageError
from deploy.core.model import Preprocessing, Weights
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec
from deploy.models.request import ModelRequest, ModuleRequest, parse_options, typed
from deploy.support.lookup import manifest_beside, newest_export

PRECISION = "fp32"
_TUPLES = ("crop", "mean", "std")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A float32 ONNX file.

    Attributes:
        model: full name of the model; the file's stem without a manifest.
        slug: name of the model's folder in the artifacts directory.
        preprocessing: from an image to the input, with the user's changes applied; None if unknown.
        labels: class names of the model; empty if unknown.
        digest: SHA-256 of the file and of each external data file, joined by ``+``.
        manifest: the manifest; None if the file has none.
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

    def derived_manifest(self, *, options: Mapping[str, Any] | None = None, **fields: Any) -> Manifest:
        """Return the manifest of a file made from this one; fields that describe the model are copied.

        So are the sizes of dynamic dimensions that the model was traced with, at which the file is timed.
        """
        traced = {
            key: value for key, value in (self.manifest.options if self.manifest else {}).items() if key == "sizes"
        }
        return Manifest(
            model=self.model,
            slug=self.slug,
            inputs=self.inputs,
            outputs=self.outputs,
            weights=self.weights,
            preprocessing=self.preprocessing,
            labels=self.labels,
            reference=self.manifest.reference if self.manifest else {},
            options={**traced, **(options or {})},
            **{"parent": self.digest, **fields},
        )


def open_source(
    model: str | Path | ModelRequest | None, store: Store, preprocess: Sequence[str], progress: Progress
) -> Source:
    """Find the float32 export and verify its digest; export the model first if it has no export.

    A request is exported anew, except a module in memory whose export is there.
    ``preprocess`` are ``key=value`` changes to the preprocessing.
    """
    path, artifact = _find(model, store, progress)
    if artifact is not None:
        artifact.verify()
    from deploy.support.onnx_child import OnnxChild  # imports numpy, which a build does not wait for

    with OnnxChild() as child:
        child.examine(path)
    if artifact is not None:
        manifest = artifact.manifest
        if manifest.precision != PRECISION:
            raise ArtifactError(
                f"{path}: the precision is {manifest.precision}; a float32 export is required.",
                f"deploy export {manifest.model}",
            )
        return Source(
            path=path,
            model=manifest.model,
            slug=manifest.slug,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            preprocessing=override(manifest.preprocessing, preprocess),
            labels=manifest.labels,
            weights=manifest.weights,
            digest=artifact.manifest.digest,
            manifest=manifest,
        )
    progress.note(f"{path}: no manifest found; its parity with the model is unknown")
    from deploy.support import onnx_file  # imports onnx

    inputs, outputs = onnx_file.input_output_specs(path)
    digest = join_digests(sha256(item) for item in (path, *onnx_file.external_files(onnx_file.load(path), path)))
    return Source(
        path=path,
        model=path.stem,
        slug=path.stem,
        inputs=inputs,
        outputs=outputs,
        preprocessing=override(None, preprocess),
        labels=(),
        weights=Weights(source=path.name, trained=True, sha256=digest),
        digest=digest,
        manifest=None,
    )


def override(preprocessing: Preprocessing | None, changes: Sequence[str]) -> Preprocessing | None:
    """Return the preprocessing with changes such as ``resize=256``, ``crop=224,224`` or ``mean=0.5,0.5,0.5``."""
    if not changes:
        return preprocessing
    known = {field.name for field in dataclasses.fields(Preprocessing)}
    values: dict[str, Any] = {}
    for key, text in parse_options(tuple(changes)).items():
        if key not in known:
            raise UsageError(f"--preprocess {key}: not one of {', '.join(sorted(known))}.")
        parts = tuple(typed(part) for part in text.split(","))
        values[key] = (parts * 2 if key == "crop" and len(parts) == 1 else parts) if key in _TUPLES else parts[0]
    if preprocessing is None and not {"crop", "mean", "std"} <= set(values):
        raise UsageError(
            "--preprocess: the model has no preprocessing to change.", "give --preprocess crop=…, mean=… and std=…"
        )
    changed = dataclasses.replace(preprocessing, **values) if preprocessing else Preprocessing(**values)
    if len(changed.crop) != 2 or len(changed.mean) != len(changed.std):
        raise UsageError("--preprocess: crop needs two sizes, mean and std one value for each channel.")
    return changed


def _find(model: str | Path | ModelRequest | None, store: Store, progress: Progress) -> tuple[Path, Artifact | None]:
    if isinstance(model, ModelRequest):
        artifact = _export_of(model, store, progress) or _export(model, store, progress)
        return artifact.path, artifact
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
    progress.note(f"{model}: no float32 export found; exporting it first")
    artifact = _export(ModelRequest(name=str(model)), store, progress)
    return artifact.path, artifact


def _export_of(request: ModelRequest, store: Store, progress: Progress) -> Artifact | None:
    """Return the float32 export of a module in memory; None if there is none."""
    if not isinstance(request, ModuleRequest):
        return None
    from deploy.models.open import made_from  # imports PyTorch

    try:
        artifact = newest_export(store, progress, name=request.name, precisions=(PRECISION,))
    except ArtifactError:
        return None
    return artifact if made_from(artifact, request) else None


def _export(request: ModelRequest, store: Store, progress: Progress) -> Artifact:
    from deploy.exporting.export import export_model  # imports PyTorch

    report = export_model(request, artifacts=store.root, progress=progress)
    if report.parity.verdict == "fail":
        raise ArtifactError(f"{request.name}: the export failed the parity check.", f"deploy export {request.name}")
    return report.artifact
