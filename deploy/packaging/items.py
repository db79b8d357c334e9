"""Builds the models of a package from artifacts, with the pipeline from an image to labels where possible."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from deploy.core.artifact import Artifact, Manifest
from deploy.core.backend import ENGINE
from deploy.core.errors import ExportError, UsageError
from deploy.core.progress import Progress
from deploy.core.tensors import batch_symbol
from deploy.packaging.target import SAMPLE, SCORES, PackageItem, Pipeline
from exporters.preprocessing_to_onnx import labels_to_onnx, preprocessing_to_onnx

TOP = 5
"""Number of labels that a pipeline returns."""


def build_items(
    artifacts: Sequence[Artifact], max_batch: int, preprocessing: bool, progress: Progress
) -> list[PackageItem]:
    """Group artifacts into models (engines of one model and precision become one), and build their pipelines."""
    groups: dict[tuple[str, str, str], list[Artifact]] = defaultdict(list)
    for artifact in artifacts:
        manifest = artifact.manifest
        groups[manifest.slug, manifest.precision, manifest.format].append(artifact)
    slugs = [slug for slug, _, _ in groups]
    items: list[PackageItem] = []
    for (slug, precision, format), files in groups.items():
        name = slug if slugs.count(slug) == 1 else f"{slug}_{precision}"
        if any(item.name == name for item in items) or (format != ENGINE and len(files) > 1):
            raise UsageError(f"{files[-1].path}: another file would have the same name on the server, {name!r}.")
        for file in files:
            _check_batch(file, max_batch)
        items.append(_build_item(name, tuple(files), preprocessing, progress))
        if items[-1].no_pipeline:
            progress.note(f"{name}: packaged without preprocessing: {items[-1].no_pipeline}")
    return items


def _check_batch(artifact: Artifact, max_batch: int) -> None:
    profiles = artifact.manifest.options.get("profiles", ())
    largest = max((shapes["max"][0] for profile in profiles for shapes in profile.values()), default=max_batch)
    if largest < max_batch:
        raise UsageError(f"{artifact.path}: the engine supports at most {largest} samples.", f"--max-batch {largest}")


def _build_item(name: str, artifacts: tuple[Artifact, ...], preprocessing: bool, progress: Progress) -> PackageItem:
    manifest = artifacts[0].manifest
    classes = _classes(manifest)
    labels = manifest.labels if len(manifest.labels) == classes else ()
    if any("\n" in label for label in labels):
        raise UsageError(f"{name}: a class name contains a line break; the labels file has one name per line.")
    reason = _no_pipeline(manifest, classes) if preprocessing else "--no-preprocessing"
    if not reason and not labels:
        progress.warn(f"{name}: its classes have no names; the package returns class numbers")
        labels = tuple(map(str, range(classes)))
    pipeline = None
    if not reason and manifest.preprocessing is not None:
        try:
            image, scores = manifest.inputs[0], manifest.outputs[0]
            before = preprocessing_to_onnx(manifest.preprocessing, output=SAMPLE, dtype=image.dtype)
            after = labels_to_onnx(labels, logits=SCORES, dtype=scores.dtype, top_k=TOP)
            top = min(TOP, len(labels))
            pipeline = Pipeline(preprocessing=before.SerializeToString(), labels=after.SerializeToString(), top=top)
        except ExportError as exc:
            reason = exc.message
    return PackageItem(
        name=name,
        artifacts=artifacts,
        batch=batch_symbol(manifest.inputs, manifest.outputs),
        labels=labels,
        pipeline=pipeline,
        no_pipeline=reason,
    )


def _classes(manifest: Manifest) -> int:
    """Return the number of classes of a classifier (one float output, (batch, classes)); 0 for other models."""
    if len(manifest.outputs) != 1 or len(manifest.outputs[0].shape) != 2:
        return 0
    spec = manifest.outputs[0]
    return spec.shape[1] if spec.dtype.startswith("float") and isinstance(spec.shape[1], int) else 0


def _no_pipeline(manifest: Manifest, classes: int) -> str:
    """Return why a model cannot have a pipeline; empty if it can."""
    recipe = manifest.preprocessing
    if recipe is None:
        return "its manifest records no preprocessing"
    if not classes:
        return "its output is not one score per class"
    if len(manifest.inputs) != 1 or not manifest.inputs[0].dtype.startswith("float"):
        return "its input is not one image"
    shape = manifest.inputs[0].shape
    prepared = (1, len(recipe.mean), *recipe.crop)
    if len(shape) != 4 or any(isinstance(a, int) and a != b for a, b in zip(shape, prepared, strict=True)):
        return f"its preprocessing returns {list(prepared)}, but it takes {manifest.inputs[0]}"
    return ""
