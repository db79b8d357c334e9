"""``deploy train``: from images to trained weights, the same ones every time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.data.collection import open_splits
from deploy.models.request import ModelRequest
from deploy.training.loop import RATES, Recipe, repeatable
from deploy.training.model import build_for
from deploy.training.run import Run

EPOCHS = 20
BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport:
    """What `train_model` made.

    Attributes:
        best: checkpoint of the epoch with the best held-out accuracy, then the smallest held-out loss.
        last: checkpoint of the last epoch.
        best_epoch: counted from 1.
        accuracy: of the best epoch on the held-out images, by which it was chosen.
        history: one row an epoch.
        curve: the CSV file and, where matplotlib is installed, the PNG file.
        resumed_from: epochs that were already done, or None.
        seconds: wall time of this call.
    """

    best: Artifact
    last: Artifact
    data: Mapping[str, Any]
    best_epoch: int
    accuracy: Mapping[str, Any]
    history: tuple[Mapping[str, float], ...]
    curve: tuple[Path, ...]
    resumed_from: int | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        manifest = self.best.manifest
        return {
            "file": str(self.best.path),
            "last": str(self.last.path),
            "curve": [str(path) for path in self.curve],
            "model": manifest.model,
            "weights": dataclasses.asdict(manifest.weights),
            "labels": list(manifest.labels),
            "data": dict(self.data),
            "recipe": manifest.options["recipe"],
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "accuracy": dict(self.accuracy),
            "history": [dict(item) for item in self.history],
            "resumed_from": self.resumed_from,
            "seconds": round(self.seconds, 3),
        }


def train_model(
    model: str | ModelRequest,
    *,
    data: str | Path,
    artifacts: Path | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    lr: float | None = None,
    optimizer: str = "sgd",
    schedule: str = "one-cycle",
    augment: str = "light",
    seed: int | None = None,
    resume: bool = False,
    data_root: Path | None = None,
    skip_bad: bool = False,
    progress: Progress = SILENT,
) -> TrainReport:
    """Train or fine-tune a network on labeled images, on the processor, bit for bit repeatable.

    After every epoch the checkpoint of the last epoch, that of the best one, and the state to resume from are on
    the disk. Repeating the call, interrupted and resumed or not, gives the same weights on the same machine with
    the same versions and number of threads.

    Args:
        model: a name as on the command line, or a full request; its weights ``none`` or ``auto`` begin fresh.
        data: a bundled data set, a folder of class folders, or ``.npz``.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        epochs: passes over the training images.
        batch_size: images in a step.
        lr: largest learning rate; default 0.05 for SGD and 0.003 for AdamW.
        optimizer: ``sgd`` or ``adamw``.
        schedule: ``one-cycle`` or ``cosine``.
        augment: ``light`` or ``none``.
        seed: of fresh weights, shuffling, augmentation and dropout; default the request's, else 0.
        resume: go on where an equal call was interrupted; from the beginning if nothing of it is there.
        data_root: where the files of a bundled data set are, or are downloaded to.
        skip_bad: leave unreadable images out.
        progress: told what happens.

    Raises:
        DataError: the data cannot be used, or does not fit the model.
        UsageError: no such model, or ``resume`` with other settings than before.
        ModelError: the training diverged; checkpoints of earlier epochs are kept.
        DeployError: see `deploy.core.errors`.
    """
    began = time.perf_counter()
    request = ModelRequest(name=model) if isinstance(model, str) else model
    request = request if seed is None else dataclasses.replace(request, seed=seed)
    rate = RATES.get(optimizer, 0.0) if lr is None else lr
    recipe = Recipe(epochs, batch_size, optimizer, rate, schedule, augment, request.seed)
    with progress.stage("reading the data"):
        training, held_out = open_splits(data, root=data_root, skip_bad=skip_bad, progress=progress)
    with progress.stage("building the model"):
        built = build_for(request, training, progress)
    with repeatable(built.module), Store(artifacts or default_root()).transaction(built.slug) as transaction:
        run = Run(built, training, held_out, recipe, transaction, progress)
        if resume:
            run.resume()
        run.train()
        return _report(run, time.perf_counter() - began)


def _report(run: Run, seconds: float) -> TrainReport:
    best = run.checkpoint("best")
    return TrainReport(
        best=best,
        last=run.checkpoint("last"),
        data={"training": run.asked["data"], "held_out": run.asked["held_out"]},
        best_epoch=run.best["epoch"],
        accuracy=best.manifest.accuracy or {},
        history=tuple(run.history),
        curve=run.curve(),
        resumed_from=run.resumed_from,
        seconds=seconds,
    )
