"""The float32 export that INT8 graphs and engines are made from.

Imports neither PyTorch nor numpy nor ONNX at module level: a float32 engine is built without them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import UNPROVEN, Artifact, Manifest
from deploy.core.errors import ArtifactError
from deploy.core.model import HALVES, Preprocessing, Weights
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec
from deploy.models.owner import claim
from deploy.models.preprocessing import CHANGES, override, with_changes
from deploy.models.request import ModelRequest, ModuleRequest, check_slug
from deploy.support.lone_file import open_artifact, why_unproven
from deploy.support.lookup import name_for, names_of, newest_export
from deploy.tasks.task import Task, as_task, named_task

PRECISION = "fp32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A float32 ONNX file, or one in half precision.

    Attributes:
        model: full name of the model; the file's stem if the model is not known.
        slug: name of the model's folder in the artifacts directory.
        preprocessing: from an image to the input, with the user's changes applied; None if unknown.
        labels: class names of the model; empty if unknown.
        digest: SHA-256 of the file and of each external data file, joined by ``+``.
        precision: ``fp32``, or that of a file in half precision where it was allowed.
        manifest: the manifest; None if the model is not known, see `deploy.support.lone_file`.
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
    precision: str = PRECISION

    @property
    def verdict(self) -> str:
        """Verdict of the file's parity check."""
        return self.manifest.verdict if self.manifest else UNPROVEN

    @property
    def name(self) -> str:
        """The name by which a command finds it: that of the model, or the path of a file without a manifest."""
        return name_for(self.model, self.manifest.slug) if self.manifest else str(self.path)

    @property
    def traced_sizes(self) -> dict[str, int]:
        """The sizes of dynamic dimensions that the model was traced with, as far as the manifest has them."""
        sizes = self.manifest.options.get("sizes") if self.manifest else None
        found = sizes.items() if isinstance(sizes, Mapping) else ()
        return {str(name): size for name, size in found if isinstance(size, int) and size > 0}

    @property
    def task(self) -> Task | None:
        """What the outputs are: as the manifest says, else as their names show."""
        recorded = self.manifest.task if self.manifest else None
        return as_task(recorded) if recorded else named_task(self.outputs)

    def derived_manifest(self, *, options: Mapping[str, Any] | None = None, **fields: Any) -> Manifest:
        """Return the manifest of a file made from this one; fields that describe the model are copied.

        So are the sizes of dynamic dimensions that the model was traced with, at which the file is timed.
        """
        own = self.manifest.options if self.manifest else {}
        traced = {key: value for key, value in own.items() if key in ("sizes", CHANGES)}
        return Manifest(
            model=self.model,
            slug=self.slug,
            inputs=self.inputs,
            outputs=self.outputs,
            weights=self.weights,
            preprocessing=self.preprocessing,
            labels=self.labels,
            task=self.manifest.task if self.manifest else None,
            postprocessing=self.manifest.postprocessing if self.manifest else None,
            reference=self.manifest.reference if self.manifest else {},
            options={**traced, **(options or {})},
            **{"parent": self.digest, **fields},
        )


def open_source(
    model: str | ModelRequest | None,
    store: Store,
    preprocess: Sequence[str],
    progress: Progress,
    *,
    name: str | None = None,
    half: bool = False,
) -> Source:
    """Find the float32 export and verify its digest; export the model first if it has no export.

    A request is exported anew, except a module in memory whose export is there.
    ``preprocess`` are ``key=value`` changes to the preprocessing. ``name`` is that of the folder and files to write;
    None takes the export's. With ``half``, the named file may be in half precision already.

    Raises:
        UsageError: the folder holds another model.
    """
    if name is not None:
        check_slug(name)
    source = _opened(model, store, preprocess, progress, name, half)
    claim(
        store,
        source.slug,
        model=source.model,
        reference=source.manifest.reference if source.manifest else {},
        weights=source.weights,
    )
    return source


def _opened(
    model: str | ModelRequest | None,
    store: Store,
    preprocess: Sequence[str],
    progress: Progress,
    name: str | None,
    half: bool,
) -> Source:
    artifact = _find(model, store, progress, name)
    path, manifest = artifact.path, artifact.manifest
    artifact.verify()
    from deploy.support.onnx_child import OnnxChild  # imports numpy, which a build does not wait for

    with OnnxChild() as child:
        child.examine(path)
    if manifest.precision not in (PRECISION, *(HALVES if half else ())):
        raise ArtifactError(
            f"{path}: the precision is {manifest.precision}; a float32 export is required.",
            f"deploy export {manifest.model}" if manifest.reference else "start from the float32 file it was made from",
        )
    manifest = dataclasses.replace(manifest, options=with_changes(manifest.options, preprocess))
    if unproven := why_unproven(artifact):
        progress.note(unproven)
    return Source(
        path=path,
        model=manifest.model,
        slug=name or manifest.slug,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        preprocessing=override(manifest.preprocessing, preprocess),
        labels=manifest.labels,
        weights=manifest.weights,
        digest=manifest.digest,
        manifest=manifest if manifest.reference else None,
        precision=manifest.precision,
    )


def _find(model: str | ModelRequest | None, store: Store, progress: Progress, name: str | None) -> Artifact:
    if isinstance(model, ModelRequest):
        return _export_of(model, store, progress) or _export(model, store, progress)
    if Path(model or "").suffix == ".onnx":
        return open_artifact(Path(str(model)))
    wanted = None if model is None else name or model
    try:
        artifact = newest_export(store, progress, name=wanted, precisions=(PRECISION,))
    except ArtifactError:
        if model is None:
            raise
    else:
        if model is None or name is None or model in names_of(artifact.manifest):
            return artifact
    progress.note(f"{wanted}: no float32 export found; exporting it first")
    return _export(ModelRequest(name=str(model), slug=name), store, progress)


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
