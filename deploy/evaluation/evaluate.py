"""``deploy evaluate``: accuracy, mAP or mIoU of every artifact of a model, compared with PyTorch on the same images."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import UNPROVEN, Artifact, Manifest
from deploy.core.environment import now
from deploy.core.errors import ArtifactError, BackendError, DeployError, StorageError, UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model, Preprocessing, Weights
from deploy.core.progress import SILENT, Progress
from deploy.core.runner import Runner
from deploy.core.store import Store
from deploy.data.collection import open_dataset
from deploy.data.dataset import Dataset, stratified_split
from deploy.data.preprocess import assumed_preprocessing, fitted, image_preprocessing, prepare
from deploy.evaluation.accuracy import Accuracy, AccuracyComparison
from deploy.evaluation.leakage import seen_in_training
from deploy.evaluation.pictures import (
    feed,
    judged_by,
    picture_preprocessing,
    score_pictures,
    shapes_of,
    takes_pictures,
)
from deploy.evaluation.predictions import Classify, Predictions, labels_for, predict
from deploy.evaluation.records import save
from deploy.evaluation.rows import AccuracyRow, EvaluationReport
from deploy.evaluation.score import Score, ScoreComparison
from deploy.models.given import as_requests
from deploy.models.open import made_from, open_model, request_of, with_recorded_inputs
from deploy.models.preprocessing import override
from deploy.models.request import ModelRequest, ModuleRequest
from deploy.models.resolve import resolve
from deploy.support.lone_file import adopt_command, open_artifact, why_unproven
from deploy.support.lookup import artifacts_of, manifest_beside, name_of, newest_export
from deploy.support.onnx_child import examine
from deploy.support.runtime import runtime_for
from deploy.tasks.postprocessing import Postprocessing
from deploy.tasks.task import Task, as_task, class_count

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike

MAX_DROP = 1.0
"""Points of top-1 accuracy, mAP or mIoU that an artifact may lose by default."""

CHECKPOINT = "safetensors"
NOT_MODELS = ("calibration",)
"""Formats of artifacts that are not models; they are skipped without a note."""


def evaluate_models(
    models: Sequence[ModelLike] = (),
    *,
    data: str | Path,
    inputs: ExampleInputs | None = None,
    artifacts: str | Path | None = None,
    max_drop: float = MAX_DROP,
    batch_size: int = 64,
    data_root: Path | None = None,
    skip_bad: bool = False,
    preprocess: Sequence[str] = (),
    labels: Sequence[str] = (),
    task: Task | None = None,
    postprocessing: Postprocessing | None = None,
    progress: Progress = SILENT,
) -> EvaluationReport:
    """Evaluate PyTorch and every artifact of each model on the same images.

    Images with labels give the top-1 accuracy of a classifier; images with boxes, the mAP of a detector; images with
    masks, the mIoU of a network for the classes of pixels.

    If a model was trained on part of the data, only the held-out images are used. The images are prepared once for all
    rows of a model: as its manifests record, else as the model says; a file whose own manifest says otherwise runs on
    images prepared so, and is not compared.

    Args:
        models: names of models, ONNX files, other files with a manifest, artifacts, requests, or modules in memory;
            default: the model of the newest export.
        data: a bundled data set (its test split), a folder with one folder per class, a ``.npz`` file, or boxes or
            masks, see `deploy.data.annotated`.
        inputs: of the modules in memory, see `deploy.ExampleInputs`; `deploy.module_request` gives each its own.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        max_drop: an artifact fails if it is detectably worse than PyTorch by more percentage points of top-1 accuracy,
            mAP or mIoU.
        batch_size: images per batch.
        data_root: directory of downloaded data sets.
        skip_bad: skip unreadable images.
        preprocess: ``key=value`` changes to the preprocessing, for every row.
        labels: class names of the models, in place of those in the manifests.
        task: of the models, in place of what manifests, models and outputs say; see `deploy.tasks.task`.
        postprocessing: how the outputs of a detector are read, in place of what manifests and outputs say.
        progress: receives progress messages.

    Returns:
        The report; a verdict other than ``pass`` raises no error.

    Raises:
        DigestError: a file does not match its manifest; it was not run.
        DataError: the data cannot be read, has no labels, or does not fit a model.
        DeployError: see `deploy.core.errors`.
    """
    began = time.perf_counter()
    if batch_size < 1 or not max_drop >= 0:
        raise UsageError("the batch size must be at least 1, and the maximum drop must not be negative.")
    store = Store.at(artifacts)
    requests = as_requests(models, inputs) or [ModelRequest(name=name_of(newest_export(store, progress)))]
    requests = [request for index, request in enumerate(requests) if request not in requests[:index]]
    evaluated = [_find_artifacts(request, store, progress) for request in requests]
    with progress.stage("reading the data"):
        dataset = open_dataset(data, split="test", root=data_root, skip_bad=skip_bad, progress=progress)
        if dataset.truths is None:
            dataset.labeled()
            if task not in (None, "classification"):
                raise UsageError(f"--task {task}: the images of {dataset.name} have labels, and no boxes or masks.")
        dataset = _held_out(dataset, evaluated, progress)
    rows: list[AccuracyRow] = []
    for model in evaluated:
        how = _Preparation(tuple(preprocess), tuple(labels), batch_size, task, postprocessing)
        rows += _rows(model.name, list(_run_all(model, dataset, store, how, progress)), max_drop, progress)
    _save(rows, dataset.summary(), store, progress)
    return EvaluationReport(
        data=dataset.summary(), rows=tuple(rows), max_drop=max_drop, seconds=time.perf_counter() - began
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _EvaluatedModel:
    """A model and its artifacts.

    Attributes:
        request: as given by the user.
        checkpoint: the weights that PyTorch runs; None if the request decides.
    """

    request: ModelRequest
    checkpoint: Artifact | None
    exports: tuple[Artifact, ...]

    @property
    def name(self) -> str:
        return self.request.name

    @property
    def weights(self) -> list[Weights]:
        every = (*self.exports, self.checkpoint) if self.checkpoint else self.exports
        return [artifact.manifest.weights for artifact in every]


def _find_artifacts(request: ModelRequest, store: Store, progress: Progress) -> _EvaluatedModel:
    """Find the artifacts of a model in the store, or take the file at a path."""
    text = request.name
    if Path(text).suffix in (".onnx", ".engine", f".{CHECKPOINT}") and Path(text).is_file():
        found = [open_artifact(Path(text))]
        found += _checkpoint_beside(found[0])
    else:
        found = artifacts_of(store, request.lookup)
        found = [item for item in found if not item.manifest.options.get("last")]
        if isinstance(request, ModuleRequest):
            found = [item for item in found if made_from(item, request)]
    checkpoints = [item for item in found if item.manifest.format == CHECKPOINT]
    exports = []
    for item in found:
        if item in checkpoints or item.manifest.format in NOT_MODELS:
            continue
        runtime, reason = runtime_for(item)
        if runtime is not None:
            exports.append(item)
        else:
            progress.note(f"{item.path} is skipped: {reason}")
    if found and not checkpoints and not exports:
        raise ArtifactError(f"{text}: no backend here runs any of its artifacts.", "deploy doctor")
    exports.sort(key=lambda item: (item.manifest.precision != "fp32", item.path.name))
    return _EvaluatedModel(request=request, checkpoint=checkpoints[0] if checkpoints else None, exports=tuple(exports))


def _checkpoint_beside(export: Artifact) -> list[Artifact]:
    """Return the checkpoint in the same folder that an export was made from, even if the folder was moved."""
    digest = export.manifest.weights.sha256
    found = [manifest_beside(path) for path in sorted(export.path.parent.glob(f"*.{CHECKPOINT}"))]
    return [item for item in found if item is not None and item.manifest.files[0].sha256 == digest][:1]


def _held_out(dataset: Dataset, models: list[_EvaluatedModel], progress: Progress) -> Dataset:
    """Return the part of a data set that no model was trained on."""
    seen = {seen_in_training(weights, dataset) for model in models for weights in model.weights}
    if "all" in seen:
        progress.warn(f"{dataset.name}: a model was trained on these images, so its accuracy on them means nothing.")
    elif "part" in seen and dataset.split == "all":
        dataset = stratified_split(dataset)[1]
        progress.note(f"{dataset.name}: a model was trained on part of it; the {len(dataset)} held-out images are used")
    return dataset


@dataclass(frozen=True, slots=True)
class _Preparation:
    """How the user wants images to be prepared, classes to be called and outputs to be read."""

    changes: tuple[str, ...]
    labels: tuple[str, ...]
    batch_size: int
    task: Task | None
    postprocessing: Postprocessing | None

    def with_recorded(self, task: str | None, postprocessing: Mapping[str, Any] | None) -> _Preparation:
        """Return a copy with what a model or a manifest says where the user says nothing."""
        recorded = None if postprocessing is None else Postprocessing.from_dict(postprocessing)
        return dataclasses.replace(
            self,
            task=self.task or (as_task(task) if task else None),
            postprocessing=self.postprocessing or recorded,
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """What one runner predicts, or the score of it.

    Attributes:
        samples: SHA-256 of what the runner was fed; two runners are comparable only on the same samples.
        artifact: the file; None for PyTorch with weights that are not an artifact.
        weights: identity of the weights; two runners with the same weights are comparable.
        matched: how labels were matched, see `labels_for`.
        task: what was evaluated.
    """

    artifact: Artifact | None
    slug: str
    runtime: str
    precision: str
    weights: tuple[Any, ...]
    predictions: Predictions | Score
    matched: str
    samples: str
    task: Task


def _run_all(
    evaluated: _EvaluatedModel, dataset: Dataset, store: Store, how: _Preparation, progress: Progress
) -> Iterator[_Run]:
    """Run PyTorch, then every export after its digest was verified."""
    model = _pytorch_model(evaluated, store, progress)
    recipe = _recipe(evaluated, model, how.changes, progress)
    if model is not None:
        recorded = next((item.manifest.labels for item in evaluated.exports if item.manifest.labels), ())
        with progress.stage(f"{model.name}: PyTorch"):
            names = how.labels or model.labels or recorded
            forms = [item.manifest.postprocessing for item in evaluated.exports]
            said = how.with_recorded(model.task, next(filter(None, forms), None))
            result = _predict(PyTorchRunner(model), dataset, recipe, names, model.name, said, progress)
        yield _Run(evaluated.checkpoint, model.slug, "torch", "fp32", model.weights.identity, *result)
    for export in evaluated.exports:
        export.verify()
        examine([export])
        manifest = export.manifest
        runtime, _ = runtime_for(export)
        if runtime is None:
            continue
        own = None if how.changes or manifest.preprocessing is None else fitted(manifest.preprocessing, manifest.inputs)
        with progress.stage(f"{export.path.name}: {runtime.title}"), IsolatedRunner(runtime.backend.name) as runner:
            runner.open(export.path, **runtime.options())
            if len(runner.inputs) != 1:
                raise BackendError(f"{export.path}: has {len(runner.inputs)} inputs, not one batch of images.")
            limited = dataclasses.replace(how, batch_size=min(how.batch_size, _max_batch(manifest)))
            limited = limited.with_recorded(manifest.task, manifest.postprocessing)
            names = how.labels or manifest.labels
            result = _predict(runner, dataset, own or recipe, names, manifest.model, limited, progress)
        yield _Run(export, manifest.slug, runtime.name, manifest.precision, manifest.weights.identity, *result)


def _recipe(
    evaluated: _EvaluatedModel, model: Model | None, changes: tuple[str, ...], progress: Progress
) -> Preprocessing:
    """Return the preprocessing of all rows: what manifests record, else the model's, else a guess with a warning."""
    recorded = [item.manifest for item in evaluated.exports if item.manifest.preprocessing is not None]
    base: Preprocessing | None = None
    if recorded and recorded[0].preprocessing is not None:
        base = fitted(recorded[0].preprocessing, recorded[0].inputs)
    elif model is not None and model.preprocessing is not None:
        base = image_preprocessing(model)
    if base is None and {"crop", "mean", "std"} <= {text.partition("=")[0] for text in changes}:
        base = override(None, changes)
    if base is None:
        if model is None:
            return _changed(_assumed_preprocessing(evaluated.exports[0], progress), changes)
        base = picture_preprocessing(model.inputs)
        if base is not None:
            return _changed(base, changes)
        base = image_preprocessing(model)
        height, width = base.crop
        progress.warn(
            f"{model.name}: the preprocessing is not known; images are resized to {height} x {width} and scaled to "
            f"[-1, 1]. To record it: deploy export {model.name} --preprocess crop={height},{width} --preprocess mean=… "
            "--preprocess std=…"
        )
    return _changed(base, changes)


def _changed(recipe: Preprocessing, changes: tuple[str, ...]) -> Preprocessing:
    changed = override(recipe, changes)
    return recipe if changed is None else changed


def _assumed_preprocessing(export: Artifact, progress: Progress) -> Preprocessing:
    manifest = export.manifest
    known = picture_preprocessing(manifest.inputs)
    if known is not None:
        return known
    if manifest.reference:
        raise ArtifactError(f"{export.path}: its manifest has no preprocessing, so images cannot be prepared.")
    record = adopt_command(export.path, preprocess=True)
    try:
        assumed = assumed_preprocessing(export.path.name, manifest.inputs, manifest.options.get("sizes", {}))
    except UsageError as exc:
        raise ArtifactError(
            f"{export.path}: no preprocessing is recorded, so images cannot be prepared: {exc.message}", record
        ) from exc
    height, width = assumed.crop
    progress.warn(
        f"{export.path}: the preprocessing is not known; images are resized to {height} x {width} and scaled to "
        f"[-1, 1]. To record it: {record}"
    )
    return assumed


def _pytorch_model(evaluated: _EvaluatedModel, store: Store, progress: Progress) -> Model | None:
    """Return the model for PyTorch; None, with a warning, if only exports are left and it cannot be built."""
    checkpoint = evaluated.checkpoint
    if isinstance(evaluated.request, ModuleRequest):
        return open_model(with_recorded_inputs(evaluated.request, evaluated.exports), store, progress)
    if evaluated.request != ModelRequest(name=evaluated.name):
        return open_model(evaluated.request, store, progress)
    if checkpoint is not None:
        checkpoint.verify()
        manifest = checkpoint.manifest
        model = resolve(dataclasses.replace(request_of(checkpoint), weights=str(checkpoint.path)), progress)
        return model.replace(
            preprocessing=manifest.preprocessing or model.preprocessing, labels=manifest.labels or model.labels
        )
    if not evaluated.exports:
        return open_model(evaluated.request, store, progress)
    newest = max(evaluated.exports, key=lambda item: item.manifest.created)
    if not newest.manifest.reference:
        progress.note(why_unproven(newest) or f"{newest.path}: its model is not known, so nothing is compared")
        return None
    try:
        return open_model(request_of(newest), store, progress)
    except DeployError as exc:
        progress.warn(f"{newest.path}: its model cannot be run in PyTorch, so nothing is compared: {exc.message}")
        return None


def _max_batch(manifest: Manifest) -> int:
    shapes = [item["max"] for profile in manifest.options.get("profiles", ()) for item in profile.values()]
    return max((shape[0] for shape in shapes), default=sys.maxsize)


def _predict(
    runner: Runner,
    dataset: Dataset,
    preprocessing: Preprocessing,
    names: tuple[str, ...],
    model: str,
    how: _Preparation,
    progress: Progress,
) -> tuple[Predictions | Score, str, str, Task]:
    """Return the predictions or the score, how labels were matched, the digest of the samples, and the task."""
    if dataset.truths is not None:
        own = None if takes_pictures(runner.inputs) else preprocessing
        return _score(runner, dataset, own, names, model, how, progress)
    run, digest = _classifier(runner), hashlib.sha256()

    def classify(images: NDArray[np.float32]) -> NDArray[Any]:
        digest.update(images.data)
        return run(images)

    first = run(prepare(dataset.images[0], preprocessing)[None])
    if first.ndim != 2:
        raise BackendError(f"{model}: output of shape {list(first.shape)}; expected one row of logits per image.")
    if how.labels and len(how.labels) != first.shape[1]:
        raise UsageError(f"--labels: {len(how.labels)} names, and {model} has {first.shape[1]} classes.")
    labels, matched = labels_for(dataset, first.shape[1], names, model)
    predictions = predict(classify, dataset, labels, preprocessing, how.batch_size, progress.advance)
    return predictions, matched, digest.hexdigest(), "classification"


def _score(
    runner: Runner,
    dataset: Dataset,
    preprocessing: Preprocessing | None,
    names: tuple[str, ...],
    model: str,
    how: _Preparation,
    progress: Progress,
) -> tuple[Score, str, str, Task]:
    """Return the score on images with boxes or masks, how classes were matched, the digest of the samples, the task."""
    digest, spec = hashlib.sha256(), runner.inputs[0]
    batched = len(spec.shape) == 4
    size = spec.shape[0] if batched and isinstance(spec.shape[0], int) else None

    def run(images: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        samples = images.astype(spec.dtype)
        if not batched:
            return runner.run({spec.name: samples[0]})
        missing = 0 if size is None else size - len(samples)
        if not missing:
            return runner.run({spec.name: samples})  # rows of outputs may be detections of one image
        padded = np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)])
        return {name: value[: len(images)] for name, value in runner.run({spec.name: padded}).items()}

    def watched(images: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        digest.update(images.data)
        return run(images)

    first = run(feed(dataset.images[0], preprocessing))
    judged = judged_by(
        first,
        runner.inputs,
        name=model,
        data=dataset.name,
        task=how.task,
        declared=how.postprocessing,
        labels=names,
        preprocessing=preprocessing,
    )
    count = class_count(shapes_of(first))
    if how.labels and count is not None and len(how.labels) != count:
        raise UsageError(f"--labels: {len(how.labels)} names, and {model} has {count} classes.")
    batch = how.batch_size if batched else 1
    score, matched = score_pictures(watched, dataset, judged, size or batch, progress.advance)
    return score, matched, digest.hexdigest(), judged.task


def _classifier(runner: Runner) -> Classify:
    """Return a function from images to the first output; a fixed batch is padded with copies of the last image."""
    spec = runner.inputs[0]
    size = spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else None

    def run(images: NDArray[np.float32]) -> NDArray[Any]:
        outputs = runner.run({spec.name: images.astype(spec.dtype)})
        return next(iter(outputs.values()))

    def classify(images: NDArray[np.float32]) -> NDArray[Any]:
        if size is None:
            return run(images)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            parts.append(run(padded)[: len(part)])
        return np.concatenate(parts)

    return classify


def _rows(name: str, runs: list[_Run], max_drop: float, progress: Progress) -> list[AccuracyRow]:
    reference = runs[0] if runs[0].runtime == "torch" else None
    if any(run.matched == "position" for run in runs):
        progress.note(f"{name}: classes of the data are matched with outputs of the model by position, not by name")
    rows = []
    for run in runs:
        comparison, verdict, note = None, "reference", ""
        if run is not reference:
            comparable = reference is not None and run.weights == reference.weights
            if reference is not None and comparable and run.samples == reference.samples:
                comparison = _compare(reference, run)
            verdict, note = _verdict(run, comparison, max_drop, reference)
        manifest = run.artifact.manifest if run.artifact else None
        rows.append(
            AccuracyRow(
                model=manifest.model if manifest else name,
                slug=run.slug,
                digest=manifest.files[0].sha256 if manifest and run.runtime != "torch" else run.weights,
                file=run.artifact.path if run.artifact else None,
                runtime=run.runtime,
                precision=run.precision,
                target=manifest.target if manifest else None,
                accuracy=run.predictions if isinstance(run.predictions, Score) else Accuracy.of(run.predictions),
                comparison=comparison,
                verdict=verdict,
                note=note,
                samples=run.samples,
                task=run.task,
            )
        )
    return rows


def _compare(reference: _Run, run: _Run) -> AccuracyComparison | ScoreComparison | None:
    first, second = reference.predictions, run.predictions
    if isinstance(first, Score) and isinstance(second, Score):
        return ScoreComparison.of(first, second) if reference.task == run.task else None
    if isinstance(first, Predictions) and isinstance(second, Predictions):
        return AccuracyComparison.of(first, second)
    return None


def _verdict(
    run: _Run, comparison: AccuracyComparison | ScoreComparison | None, max_drop: float, reference: _Run | None
) -> tuple[str, str]:
    found = run.predictions
    not_finite = found.not_finite if isinstance(found, Score) else int((found.predicted < 0).sum())
    if not_finite:
        return "fail", f"{not_finite} images have outputs that are not finite"
    if comparison is None:
        if run.artifact is not None and not run.artifact.manifest.reference:
            return UNPROVEN, "its model is not known, so there is nothing to compare it with"
        if reference is None:
            return "inconclusive", "there is no PyTorch model to compare with"
        if run.weights == reference.weights:
            return "inconclusive", "its manifest prepares images differently; --preprocess prepares them for all alike"
        return "inconclusive", "exported from other weights than PyTorch ran; export the model again to compare"
    if comparison.worse and -comparison.difference * 100 > max_drop:
        return "fail", f"{comparison.verdict} than PyTorch; the maximum is {max_drop:g}"
    return "pass", ""


def _save(rows: Sequence[AccuracyRow], data: Mapping[str, Any], store: Store, progress: Progress) -> None:
    """Write the records that the report reads; a directory that cannot be written to is only a warning."""
    try:
        for slug in dict.fromkeys(row.slug for row in rows):
            save(store.root, slug, data, [row.to_dict() for row in rows if row.slug == slug], now())
    except StorageError as exc:
        progress.warn(f"the results were not saved: {exc.message}")
