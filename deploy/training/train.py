"""``deploy train``: train or fine-tune a network on images, reproducibly."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from deploy.core.artifact import Artifact, Manifest, Payload
from deploy.core.brief import brief
from deploy.core.errors import ArtifactError, ModelError, UsageError
from deploy.core.model import Model, Weights
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store, Transaction, storage_errors
from deploy.core.tensors import TensorSpec
from deploy.data.collection import open_splits
from deploy.data.dataset import Dataset
from deploy.evaluation.accuracy import Accuracy
from deploy.evaluation.leakage import trained_on
from deploy.evaluation.score import Score
from deploy.models.given import as_request
from deploy.models.owner import claim
from deploy.models.request import ModelRequest, ModuleRequest
from deploy.training.curve import can_plot, plot, table
from deploy.training.loop import LEARNING_RATES, DivergedError, Recipe, Trainer, deterministic
from deploy.training.model import build_for
from deploy.training.state import dump_state, dump_weights, load_state, restore, training_tensors


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TrainReport:
    """The result of `train_model`.

    Attributes:
        best: checkpoint of the epoch with the best held-out accuracy, mAP or mIoU, then the smallest held-out loss.
        last: checkpoint of the last epoch.
        data: summaries of the training and the held-out images.
        best_epoch: counted from 1.
        accuracy: of the best epoch on the held-out images, which also selected it.
        history: one row per epoch.
        curve: the CSV file and, if matplotlib is installed, the PNG file.
        resumed_from: number of epochs that were already done, or None.
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

    def __repr__(self) -> str:
        value = self.accuracy.get("value", self.accuracy.get("top1", 0))
        return brief(
            self, self.best.path, f"epoch {self.best_epoch}", f"{self.accuracy.get('metric', 'top-1')} {value:.1%}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        manifest = self.best.manifest
        values: dict[str, Any] = to_plain(
            {
                "file": self.best.path,
                "last": self.last.path,
                "curve": self.curve,
                "model": manifest.model,
                "weights": manifest.weights,
                "labels": manifest.labels,
                "data": self.data,
                "recipe": manifest.options["recipe"],
                "epochs": len(self.history),
                "best_epoch": self.best_epoch,
                "accuracy": self.accuracy,
                "history": self.history,
                "resumed_from": self.resumed_from,
                "seconds": round(self.seconds, 3),
            }
        )
        return values


def train_model(
    model: str | ModelRequest,
    *,
    data: str | Path,
    name: str | None = None,
    artifacts: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: Literal["sgd", "adamw"] | None = None,
    schedule: Literal["one-cycle", "cosine"] = "one-cycle",
    augment: Literal["light", "none"] = "light",
    seed: int | None = None,
    resume: bool = False,
    data_root: Path | None = None,
    skip_bad: bool = False,
    progress: Progress = SILENT,
) -> TrainReport:
    """Train or fine-tune a network on the CPU, bitwise reproducibly.

    On images with labels it is trained as a classifier; on images with boxes or masks, as what the model is: a network
    for the classes of pixels, or a detector with a training loss (``zoo/fcos_small``).

    After every epoch, the checkpoints of the last and the best epoch and the state for resuming are written.
    Repeating the call, interrupted and resumed or not, gives the same weights on the same machine with the same
    versions and number of threads.

    Args:
        model: a name as on the command line, or a full request; weights ``none`` or ``auto`` start untrained.
        data: a bundled data set, a folder with one subfolder per class, a ``.npz`` file, or boxes or masks, see
            `deploy.data.annotated`.
        name: name of the folder and the files; default: the model's own name.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        epochs: passes over the training images; default 20, for a detector 30, for masks 16.
        batch_size: images per step; default 64, for a detector 16, for masks 8.
        lr: maximum learning rate; default 0.05 for SGD and 0.003 for AdamW.
        optimizer: ``sgd`` or ``adamw``; default SGD, and AdamW on images with boxes or masks.
        schedule: ``one-cycle`` or ``cosine``.
        augment: ``light`` or ``none``.
        seed: of initial weights, shuffling, augmentation and dropout; default the request's, else 0.
        resume: continue an interrupted call with equal arguments; start from the beginning if there is none.
        data_root: folder with the files of bundled data sets, or to download them to.
        skip_bad: skip unreadable images.
        progress: receives progress messages.

    Raises:
        DataError: the data cannot be used, or does not fit the model.
        UsageError: no model has this name, or ``resume`` with other settings than before.
        ModelError: the training diverged; checkpoints of earlier epochs are kept.
        DeployError: see `deploy.core.errors`.
    """
    started = time.perf_counter()
    request = as_request(model, name=name)
    if isinstance(request, ModuleRequest):
        raise UsageError(f"{request.name}: a module in memory cannot be trained here: resuming builds it again.")
    request = request if seed is None else dataclasses.replace(request, seed=seed)
    recipe = _recipe(None, epochs, batch_size, lr, optimizer, schedule, augment, request.seed)  # refuses bad values
    with progress.stage("reading the data"):
        training, held_out = open_splits(data, root=data_root, skip_bad=skip_bad, progress=progress)
    with progress.stage("building the model"):
        built = build_for(request, training, progress)
    if training.truths is not None:
        recipe = _recipe(built.task, epochs, batch_size, lr, optimizer, schedule, augment, request.seed)
    store = Store.at(artifacts)
    claim(store, built.slug, model=built.name, reference=_placed(built, store), weights=built.weights)
    with deterministic(built.module), store.transaction(built.slug) as transaction:
        run = _TrainingRun(built, training, held_out, recipe, transaction, progress)
        if resume:
            run.resume()
        run.train()
        best, last = run.checkpoint("best"), run.checkpoint("last")
        best.verify()
        last.verify()
        return TrainReport(
            best=best,
            last=last,
            data={"training": run.settings["data"], "held_out": run.settings["held_out"]},
            best_epoch=run.best["epoch"],
            accuracy=best.manifest.accuracy or {},
            history=tuple(run.history),
            curve=run.curve(),
            resumed_from=run.resumed_from,
            seconds=time.perf_counter() - started,
        )


DEFAULTS = {None: (20, 64), "detection": (30, 16), "instance-segmentation": (30, 16), "semantic-segmentation": (16, 8)}
"""Epochs and batch size of each task; None stands for classification."""


def _recipe(
    task: str | None,
    epochs: int | None,
    batch_size: int | None,
    lr: float | None,
    optimizer: str | None,
    schedule: str,
    augment: str,
    seed: int,
) -> Recipe:
    """Return the hyperparameters, with the defaults of a task; None stands for classification."""
    chosen = optimizer or ("adamw" if task else "sgd")
    return Recipe(
        epochs=DEFAULTS[task][0] if epochs is None else epochs,
        batch_size=DEFAULTS[task][1] if batch_size is None else batch_size,
        optimizer=chosen,
        lr=LEARNING_RATES.get(chosen, 0.0) if lr is None else lr,
        schedule=schedule,
        augment=augment,
        seed=seed,
    )


class _TrainingRun:
    """One training with its settings, its history, and its files after every epoch."""

    def __init__(
        self,
        model: Model,
        training: Dataset,
        held_out: Dataset,
        recipe: Recipe,
        transaction: Transaction,
        progress: Progress,
    ) -> None:
        self.model, self.held_out, self.recipe = model, held_out, recipe
        self.transaction, self.progress = transaction, progress
        self.trainer = Trainer(model, training, recipe)
        self.history: list[dict[str, float]] = []
        self.metric = self.trainer.objective.metric
        self.best: dict[str, Any] = {"epoch": 0, self.metric: -1.0, "loss": 0.0}
        self.resumed_from: int | None = None
        self.published = 0  # epochs whose checkpoints are written
        slug = model.slug
        self.state, self.csv, self.png = (f"{slug}.training.{suffix}" for suffix in ("safetensors", "csv", "png"))
        self.names = {"best": f"{slug}.fp32.safetensors", "last": f"{slug}.last.fp32.safetensors"}
        settings = {
            "model": model.name,
            "options": model.reference.get("options", {}),
            "weights": model.weights,
            "recipe": recipe,
            "data": training.summary(),
            "held_out": held_out.summary(),
            "parameters": [(name, list(value.shape)) for name, value in model.module.state_dict().items()],
        }
        self.settings: dict[str, Any] = json.loads(json.dumps(to_plain(settings)))

    def resume(self) -> None:
        """Restore the state of an interrupted training with equal settings, if there is one."""
        path = self.transaction.folder / self.state
        loaded = load_state(path)
        if loaded is None:
            self.progress.note("no interrupted training found; starting from the beginning")
            return
        tensors, facts = loaded
        if facts["asked"] != self.settings:
            raise UsageError(
                f"{path}: the interrupted training had other settings: {_differences(facts['asked'], self.settings)}.",
                "repeat its options, or leave out --resume to start again",
            )
        best = self.transaction.folder / self.names["best"]
        if not best.is_file():
            raise ArtifactError(f"{best}: the checkpoint is missing.", "train from the beginning, without --resume")
        self.history, self.best = facts["history"], facts["best"]
        self.resumed_from = self.published = len(self.history)
        if not facts["finished"]:
            restore(self.model.module, self.trainer.optimizer, tensors)
        if facts["threads"] != torch.get_num_threads():
            self.progress.warn(
                f"trained with {facts['threads']} threads so far and {torch.get_num_threads()} now: sums are rounded "
                "differently, so the weights will not be bitwise equal to those of an uninterrupted training."
            )
        rest = "the training is finished" if facts["finished"] else "continuing"
        self.progress.note(f"epoch {self.resumed_from} of {self.recipe.epochs} is done; {rest}")

    def train(self) -> None:
        """Train the remaining epochs and write the checkpoints of each."""
        if len(self.history) == self.recipe.epochs:
            self._add_plot()
            return
        if not can_plot():
            self.progress.note("the training curve is written as CSV only; a plot needs matplotlib")
        try:
            with self.progress.stage("training"):
                while len(self.history) < self.recipe.epochs:
                    self._epoch()
        except DivergedError as exc:
            raise self._diverged(exc) from exc
        except BaseException:  # above all an interruption, but also a full disk or an image that is gone
            del self.history[self.published :]  # an epoch that was not completely written
            if self.history:
                self.progress.note(f"epochs 1 to {len(self.history)} are saved; add --resume to continue")
            raise
        finally:
            self._add_plot()
        if self.held_out.labels is None:
            return
        counts = torch.bincount(torch.from_numpy(self.held_out.labeled()))
        chance = float(counts.max()) / len(self.held_out)
        if self.best["top1"] <= chance:
            self.progress.warn(
                f"{self.model.name} learned nothing: its accuracy is {self.best['top1']:.1%}, and always predicting "
                f"the most frequent class gives {chance:.1%}. Try another learning rate (--lr) or more epochs."
            )

    def _epoch(self) -> None:
        started, epoch, epochs, steps = time.perf_counter(), len(self.history), self.recipe.epochs, self.trainer.steps

        title = self.trainer.objective.title

        def advance(step: int, loss: float, top1: float | None) -> None:
            text = f"epoch {epoch + 1}/{epochs}  loss {loss:.3f}" + ("" if top1 is None else f"  accuracy {top1:.1%}")
            self.progress.advance(epoch * steps + step, epochs * steps, text)

        trained = self.trainer.train(epoch, advance)
        score, loss = self.trainer.evaluate(self.held_out)
        value = score.value
        seconds = round(time.perf_counter() - started, 3)
        held_out = {"test_loss": loss, f"test_{self.metric}": value}
        self.history.append({"epoch": epoch + 1, **trained, **held_out, "seconds": seconds})
        known = f", accuracy {trained['train_top1']:.2%}" if "train_top1" in trained else ""
        self.progress.note(
            f"epoch {epoch + 1}/{epochs}: loss {trained['train_loss']:.4f}{known}; "
            f"held out: loss {loss:.4f}, {title} {value:.2%}"
        )
        if (value, -loss) > (self.best[self.metric], -self.best["loss"]):
            self.best = {"epoch": epoch + 1, self.metric: value, "loss": loss}
            self._publish("best", score)
        self._publish("last", score, self._state_and_curve())
        self.published = len(self.history)
        for name in (self.state, self.csv, self.png):  # files of an earlier training that this one does not have
            if name not in self._listed_files():
                (self.transaction.folder / name).unlink(missing_ok=True)

    def _state_and_curve(self) -> dict[str, bytes]:
        """Return the files that belong to the last checkpoint."""
        finished = len(self.history) == self.recipe.epochs
        facts = {
            "asked": self.settings,
            "history": self.history,
            "best": self.best,
            "threads": torch.get_num_threads(),
            "finished": finished,
        }
        tensors = {} if finished else training_tensors(self.model.module, self.trainer.optimizer)
        files = {self.state: dump_state(tensors, facts), self.csv: table(self.history)}
        return {**files, self.png: self._plot()} if finished and can_plot() else files

    def _plot(self) -> bytes:
        return plot(self.history, f"{self.model.name} on {self.held_out.name}")

    def _listed_files(self) -> set[str]:
        return {payload.file for payload in self.checkpoint("last").manifest.files}

    def _add_plot(self) -> None:
        """Add the plot of a training that ended before its last epoch; plotting after every epoch would be slow."""
        if not self.history or not can_plot() or self.png in self._listed_files():
            return
        last = self.checkpoint("last")
        with storage_errors(last.path):
            for payload in last.manifest.files:
                shutil.copyfile(last.path.with_name(payload.file), self.transaction.path(payload.file))
            self.transaction.path(self.png).write_bytes(self._plot())
        files = (*last.manifest.files, Payload.of(self.transaction.path(self.png)))
        self.transaction.publish(dataclasses.replace(last.manifest, files=files))

    def _publish(self, role: str, score: Accuracy | Score, more_files: Mapping[str, bytes] | None = None) -> None:
        """Write the ``best`` or the ``last`` checkpoint with its manifest."""
        target = self.transaction.folder / self.names[role]
        files = {self.names[role]: dump_weights(self.model.module), **(more_files or {})}
        with storage_errors(target):
            for name, data in files.items():
                self.transaction.path(name).write_bytes(data)
        chosen = "the best epoch by these images" if role == "best" else "the last epoch"
        source = trained_on(self.trainer.data, len(self.history))
        if self.model.weights.trained:
            source += f", from {self.model.weights.source}"
        manifest = Manifest(
            model=self.model.name,
            slug=self.model.slug,
            format="safetensors",
            precision="fp32",
            files=tuple(Payload.of(self.transaction.path(name)) for name in files),
            inputs=self.model.inputs,
            outputs=self._outputs(),
            weights=Weights(source=source, trained=True, seed=self.recipe.seed),
            preprocessing=self.model.preprocessing,
            labels=self.model.labels,
            task=self.model.task,
            reference={**self.model.reference, "weights": str(target)},
            options={
                "recipe": self.settings["recipe"],
                "data": self.settings["data"],
                "epoch": len(self.history),
                "last": role == "last",
                "threads": torch.get_num_threads(),
            },
            accuracy={"data": self.settings["held_out"], "chosen": chosen, **score.to_dict()},
        )
        self.transaction.publish(manifest)

    def _outputs(self) -> tuple[TensorSpec, ...]:
        """Return the outputs; their first dimension is the batch."""
        if self.held_out.labels is not None:
            return (TensorSpec(name="logits", dtype="float32", shape=("batch", len(self.model.labels))),)
        recipe = self.trainer.preprocessing
        self.model.module.eval()
        with torch.no_grad():
            named = self.model.call({self.model.inputs[0].name: torch.zeros(1, len(recipe.mean), *recipe.crop)})
        dtypes = {name: str(value.dtype).removeprefix("torch.") for name, value in named.items()}
        return tuple(
            TensorSpec(name=name, dtype=dtypes[name], shape=("batch", *value.shape[1:]))
            for name, value in named.items()
        )

    def _diverged(self, exc: DivergedError) -> ModelError:
        epoch = len(self.history) + 1
        kept = f"the checkpoints of epoch {epoch - 1} and of the best epoch are kept"
        return ModelError(
            f"the training of {self.model.name} diverged in epoch {epoch} ({exc}); "
            f"{kept if epoch > 1 else 'nothing was written'}.",
            f"use a smaller learning rate than {self.recipe.lr:g}: --lr {self.recipe.lr / 10:g}",
        )

    def checkpoint(self, role: str) -> Artifact:
        """Open the ``best`` or the ``last`` checkpoint."""
        return Artifact.open(self.transaction.folder / self.names[role])

    def curve(self) -> tuple[Path, ...]:
        """Return the files of the training curve."""
        listed = self._listed_files()
        return tuple(self.transaction.folder / name for name in (self.csv, self.png) if name in listed)


def _placed(model: Model, store: Store) -> dict[str, Any]:
    """Return the reference of a model with the checkpoint that the training will write."""
    return {**model.reference, "weights": str(store.folder(model.slug) / f"{model.slug}.fp32.safetensors")}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    differences = []
    for key in now:
        old, new = before.get(key), now[key]
        if isinstance(old, dict) and isinstance(new, dict):
            differences.append(_differences(old, new, f"{key} "))
        elif old != new:
            values = "the shapes differ" if key == "parameters" else f"{old!r} before, {new!r} now"
            differences.append(f"{prefix}{key}: {values}")
    return "; ".join(filter(None, differences))
