"""What each model of a package consists of, with the way from a picture to names where there is one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.core.artifact import Artifact, Manifest
from deploy.core.errors import ExportError, UsageError
from deploy.core.progress import Progress
from deploy.core.tensors import batch_symbol
from deploy.packaging.content import Content, Pipeline
from exporters.preprocessing_to_onnx import labels_to_onnx, preprocessing_to_onnx

TOP = 5
"""Names that come out of a pipeline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked of every model alike."""

    max_batch: int
    pictures: bool


def contents_of(chosen: Sequence[Artifact], asked: Asked, progress: Progress) -> tuple[list[Content], dict[str, str]]:
    """The models of a package, and why some of them have no pipeline.

    Raises:
        UsageError: two of them would have one name, or the batch is more than an engine takes.
    """
    groups: dict[tuple[str, str, str], list[Artifact]] = defaultdict(list)
    for artifact in chosen:
        manifest = artifact.manifest
        groups[manifest.slug, manifest.precision, manifest.format].append(artifact)
    slugs = [slug for slug, _, _ in groups]
    contents: list[Content] = []
    without: dict[str, str] = {}
    for (slug, precision, format), artifacts in groups.items():
        name = slug if slugs.count(slug) == 1 else f"{slug}_{precision}"
        if any(content.name == name for content in contents) or (format != "engine" and len(artifacts) > 1):
            raise UsageError(f"{name}: {artifacts[-1].path} and another file would have that name.")
        content, why = _content(name, tuple(artifacts), asked, progress)
        contents.append(content)
        if why:
            without[name] = why
            progress.note(f"{name}: tensors go in, not pictures: {why}")
    return contents, without


def _content(name: str, artifacts: tuple[Artifact, ...], asked: Asked, progress: Progress) -> tuple[Content, str]:
    manifest = artifacts[0].manifest
    for artifact in artifacts:
        _fits(artifact, asked.max_batch)
    classes = _classes(manifest)
    labels = manifest.labels if len(manifest.labels) == classes else ()
    if any("\n" in label for label in labels):
        raise UsageError(f"{name}: a class's name has two lines, and a file of names has one for each.")
    pipeline, why = None, "--no-preprocessing"
    if asked.pictures:
        why = _no_pictures(manifest, classes)
        if not why and not labels:
            progress.warn(f"{name}: its classes have no names: their numbers come out")
            labels = tuple(map(str, range(classes)))
    if not why and manifest.preprocessing is not None:
        taken, given = manifest.inputs[0], manifest.outputs[0]
        try:
            before = preprocessing_to_onnx(manifest.preprocessing, output=taken.name, dtype=taken.dtype)
        except ExportError as exc:
            why = exc.message
        else:
            after = labels_to_onnx(labels, logits=given.name, dtype=given.dtype, top_k=TOP)
            pipeline = Pipeline(
                preprocessing=before.SerializeToString(), labels=after.SerializeToString(), top=min(TOP, classes)
            )
    content = Content(
        name=name,
        artifacts=artifacts,
        batch=batch_symbol(manifest.inputs, manifest.outputs),
        max_batch=asked.max_batch,
        labels=labels,
        pipeline=pipeline,
    )
    return content, why if pipeline is None else ""


def _fits(artifact: Artifact, max_batch: int) -> None:
    """Raises: UsageError: the engine takes no batch of that size."""
    largest = [item["max"][0] for profile in artifact.manifest.options.get("profiles", ()) for item in profile.values()]
    if largest and max(largest) < max_batch:
        raise UsageError(f"{artifact.path}: takes at most {max(largest)} samples.", f"--max-batch {max(largest)}")


def _classes(manifest: Manifest) -> int:
    """Of a classifier: one output of floats, (batch, classes); else 0."""
    if len(manifest.outputs) != 1 or len(manifest.outputs[0].shape) != 2:
        return 0
    spec = manifest.outputs[0]
    return spec.shape[1] if spec.dtype.startswith("float") and isinstance(spec.shape[1], int) else 0


def _no_pictures(manifest: Manifest, classes: int) -> str:
    """Why no picture can go in; empty where one can."""
    recipe = manifest.preprocessing
    if recipe is None:
        return "its manifest does not say how a picture becomes its input"
    if not classes:
        return "it does not give one score for each class"
    if len(manifest.inputs) != 1 or not manifest.inputs[0].dtype.startswith("float"):
        return "it does not take one picture"
    fixed = manifest.inputs[0].shape
    wanted = (1, len(recipe.mean), *recipe.crop)
    if len(fixed) != 4 or any(isinstance(have, int) and have != want for have, want in zip(fixed, wanted, strict=True)):
        return f"its preprocessing gives {list(wanted)}, and it takes {manifest.inputs[0]}"
    return ""
