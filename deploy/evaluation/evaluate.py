"""``deploy evaluate``: how often every artifact of a model is right, and whether it differs from PyTorch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.environment import now
from deploy.core.errors import StorageError, UsageError
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.data.collection import open_dataset
from deploy.data.dataset import Dataset
from deploy.data.split import divide
from deploy.evaluation.accuracy import Accuracy, AccuracyComparison
from deploy.evaluation.images import seen_in_training
from deploy.evaluation.records import save
from deploy.evaluation.run import EvaluatedModel, Judged, judge, subject
from deploy.support.lookup import newest_export

MAX_DROP = 1.0
"""Percentage points of top-1 that an artifact may lose before the check fails."""

STALE = "made from other weights than PyTorch ran here: export it again to compare"


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyRow:
    """One runner of a model.

    Attributes:
        file: the artifact, or None for PyTorch with weights that are no artifact here.
        comparison: with PyTorch on the same images; None for PyTorch itself, and where ``note`` says why.
        verdict: ``reference``, ``pass``, ``fail`` or ``inconclusive``.
        digest: of the file that was run, or what tells the weights apart that PyTorch ran.
    """

    model: str
    slug: str
    digest: str | tuple[Any, ...]
    file: Path | None
    runtime: str
    precision: str
    target: str | None
    accuracy: Accuracy
    comparison: AccuracyComparison | None
    verdict: str
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "digest": self.digest,
            "file": str(self.file) if self.file else None,
            "runtime": self.runtime,
            "precision": self.precision,
            "target": self.target,
            "accuracy": self.accuracy.to_dict(),
            "comparison": self.comparison.to_dict() if self.comparison else None,
            "verdict": self.verdict,
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationReport:
    """What `evaluate_models` found.

    Attributes:
        data: the images that were judged.
        rows: PyTorch first, then its exports, model after model.
        max_drop: percentage points.
        seconds: wall time.
    """

    data: Mapping[str, Any]
    rows: tuple[AccuracyRow, ...]
    max_drop: float
    seconds: float

    @property
    def verdict(self) -> str:
        """``fail`` if a row failed, else ``inconclusive`` if one could not be compared, else ``pass``."""
        verdicts = {row.verdict for row in self.rows}
        return next((word for word in ("fail", "inconclusive") if word in verdicts), "pass")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "verdict": self.verdict,
            "data": dict(self.data),
            "max_drop": self.max_drop,
            "rows": [row.to_dict() for row in self.rows],
            "seconds": round(self.seconds, 3),
        }


def evaluate_models(
    models: Sequence[str] = (),
    *,
    data: str | Path,
    artifacts: Path | None = None,
    max_drop: float = MAX_DROP,
    batch_size: int = 64,
    data_root: Path | None = None,
    skip_bad: bool = False,
    progress: Progress = SILENT,
) -> EvaluationReport:
    """Judge PyTorch and every export of each model on the same labeled images.

    Of a collection that a model was trained on, only the images that were held out are judged.

    Args:
        models: names, or files with a manifest; default the model of the newest export.
        data: a bundled data set (its test part), a folder of class folders, or ``.npz``.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        max_drop: a row fails if it is detectably worse than PyTorch by more percentage points of top-1.
        batch_size: images in a batch.
        data_root: where the files of a bundled data set are, or are downloaded to.
        skip_bad: leave unreadable images out.
        progress: told what happens.

    Returns:
        The report; a verdict other than ``pass`` is for the caller to act on.

    Raises:
        DigestError: a file is not what its manifest records; it was not run.
        DataError: the data cannot be used, has no labels, or does not fit a model.
        DeployError: see `deploy.core.errors`.
    """
    began = time.perf_counter()
    if batch_size < 1 or not max_drop >= 0:
        raise UsageError("the batch size must be at least 1, and the drop not negative.")
    store = Store(artifacts or default_root())
    names = list(dict.fromkeys(models)) or [newest_export(store, progress).manifest.model]
    subjects = [subject(name, store, progress) for name in names]
    with progress.stage("reading the data"):
        dataset = open_dataset(data, split="test", root=data_root, skip_bad=skip_bad, progress=progress)
        dataset.labeled()
        dataset = _unseen(dataset, subjects, progress)
    rows: list[AccuracyRow] = []
    for item in subjects:
        rows += _rows(item.name, list(judge(item, dataset, store, batch_size, progress)), max_drop, progress)
    _keep(rows, dataset.summary(), store, progress)
    return EvaluationReport(
        data=dataset.summary(), rows=tuple(rows), max_drop=max_drop, seconds=time.perf_counter() - began
    )


def _keep(rows: Sequence[AccuracyRow], data: Mapping[str, Any], store: Store, progress: Progress) -> None:
    """For the report; a directory that cannot be written to is no reason not to tell what was found."""
    try:
        for slug in dict.fromkeys(row.slug for row in rows):
            save(store.root, slug, data, [row.to_dict() for row in rows if row.slug == slug], now())
    except StorageError as exc:
        progress.warn(f"what was found is not kept: {exc.message}")


def _unseen(dataset: Dataset, subjects: list[EvaluatedModel], progress: Progress) -> Dataset:
    """Only the held-out part of what a model was trained on."""
    seen = {seen_in_training(weights, dataset) for item in subjects for weights in item.weights}
    if "all" in seen:
        progress.warn(f"{dataset.name}: a model was trained on these very images; its accuracy here says nothing.")
    elif "part" in seen and dataset.split == "all":
        dataset = divide(dataset)[1]
        progress.note(f"{dataset.name} was trained on: only the {len(dataset)} images held out then are judged")
    return dataset


def _rows(name: str, judged: list[Judged], max_drop: float, progress: Progress) -> list[AccuracyRow]:
    reference = judged[0] if judged[0].runtime == "torch" else None
    if any(item.matched == "position" for item in judged):
        progress.note(f"{name}: classes of the data and of the model are matched by position, not by name")
    rows = []
    for item in judged:
        comparison, verdict, note = None, "reference", ""
        if item is not reference:
            comparable = reference is not None and item.weights == reference.weights
            if reference is not None and comparable:
                comparison = AccuracyComparison.of(reference.answers, item.answers)
            verdict, note = _verdict(item, comparison, max_drop, has_reference=reference is not None)
        manifest = item.artifact.manifest if item.artifact else None
        rows.append(
            AccuracyRow(
                model=manifest.model if manifest else name,
                slug=item.slug,
                digest=manifest.files[0].sha256 if manifest and item.runtime != "torch" else item.weights,
                file=item.artifact.path if item.artifact else None,
                runtime=item.runtime,
                precision=item.precision,
                target=manifest.target if manifest else None,
                accuracy=Accuracy.of(item.answers),
                comparison=comparison,
                verdict=verdict,
                note=note,
            )
        )
    return rows


def _verdict(
    item: Judged, comparison: AccuracyComparison | None, max_drop: float, *, has_reference: bool
) -> tuple[str, str]:
    not_finite = int((item.answers.choice < 0).sum())
    if not_finite:
        return "fail", f"{not_finite} images have logits that are not finite"
    if comparison is None:
        return "inconclusive", STALE if has_reference else "there is no PyTorch model to compare it with"
    if comparison.worse and -comparison.difference * 100 > max_drop:
        return "fail", f"{comparison.verdict} than PyTorch, and {max_drop:g} are allowed"
    return "pass", ""
