"""One training: what it was asked for, where it stands, and its files after every epoch."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deploy.core.artifact import Artifact, Manifest, Payload
from deploy.core.errors import ArtifactError, ModelError, UsageError
from deploy.core.model import Model, Weights
from deploy.core.progress import Progress
from deploy.core.store import Transaction, storage_errors
from deploy.core.tensors import TensorSpec
from deploy.data.dataset import Dataset
from deploy.evaluation.accuracy import Accuracy
from deploy.evaluation.leakage import trained_on
from deploy.evaluation.predictions import Predictions
from deploy.training.curve import can_draw, picture, table
from deploy.training.loop import DivergedError, Recipe, Trainer, row
from deploy.training.state import finished_bytes, read_state, restore, state_bytes, weights_bytes


class Run:
    """One training: what it was asked for, and where it stands."""

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
        self.best: dict[str, Any] = {"epoch": 0, "top1": -1.0, "loss": 0.0}
        self.resumed_from: int | None = None
        self.kept = 0  # epochs whose checkpoints are written
        slug = model.slug
        self.state, self.csv, self.png = (f"{slug}.training.{kind}" for kind in ("safetensors", "csv", "png"))
        self.names = {"best": f"{slug}.fp32.safetensors", "last": f"{slug}.last.fp32.safetensors"}
        asked = {
            "model": model.name,
            "options": model.reference.get("options", {}),
            "weights": dataclasses.asdict(model.weights),
            "recipe": dataclasses.asdict(recipe),
            "data": training.summary(),
            "held_out": held_out.summary(),
            "parameters": [[name, list(value.shape)] for name, value in model.module.state_dict().items()],
        }
        self.asked: dict[str, Any] = json.loads(json.dumps(asked))

    def resume(self) -> None:
        """Go back to where an equal training was interrupted, if there was one.

        Raises:
            UsageError: the training that was interrupted was another one.
            ArtifactError: its state or its best checkpoint is damaged or gone.
        """
        path = self.transaction.folder / self.state
        found = read_state(path)
        if found is None:
            self.progress.note("no interrupted training is there: it starts from the beginning")
            return
        tensors, facts = found
        before = facts["asked"]
        if before != self.asked:
            raise UsageError(
                f"{path}: the interrupted training was another one: {_differences(before, self.asked)}.",
                "give the same options as then, or leave out --resume to start anew",
            )
        if not (self.transaction.folder / self.names["best"]).is_file():
            raise ArtifactError(f"{self.names['best']} is gone.", "train from the beginning: without --resume")
        self.history, self.best = facts["history"], facts["best"]
        self.resumed_from = self.kept = len(self.history)
        if not facts["finished"]:
            restore(self.model.module, self.trainer.optimizer, tensors)
        if facts["threads"] != torch.get_num_threads():
            self.progress.warn(
                f"it was trained with {facts['threads']} threads and goes on with {torch.get_num_threads()}: sums may "
                "round otherwise, and the weights will not be the same to the bit."
            )
        over = "it is finished: nothing is left to do" if facts["finished"] else "going on"
        self.progress.note(f"epoch {self.resumed_from} of {self.recipe.epochs} is done; {over}")

    def train(self) -> None:
        """The epochs that are left, each with its checkpoints."""
        if len(self.history) == self.recipe.epochs:
            self._draw_late()
            return
        if not can_draw():
            self.progress.note("the training curve will be a table only; a picture needs matplotlib")
        try:
            with self.progress.stage("training"):
                while len(self.history) < self.recipe.epochs:
                    self._epoch()
        except DivergedError as exc:
            raise self._diverged(exc) from exc
        except BaseException:  # an interruption above all, but also a full disk or a missing image
            del self.history[self.kept :]  # one that came while an epoch was being written
            if self.history:
                self.progress.note(f"epochs 1 to {len(self.history)} are kept; the same command with --resume goes on")
            raise
        finally:
            self._draw_late()
        guessing = max(torch.bincount(torch.from_numpy(self.held_out.labeled())).tolist()) / len(self.held_out)
        if self.best["top1"] <= guessing:
            self.progress.warn(
                f"{self.model.name} has learned nothing: {self.best['top1']:.1%} right, and always naming the most "
                f"frequent class gives {guessing:.1%}. Try another learning rate (--lr) or more epochs."
            )

    def _epoch(self) -> None:
        began, epoch, recipe = time.perf_counter(), len(self.history), self.recipe
        total = recipe.epochs * self.trainer.steps

        def advance(step: int, loss: float, right: float) -> None:
            text = f"epoch {epoch + 1}/{recipe.epochs}  loss {loss:.3f}  accuracy {right:.1%}"
            self.progress.advance(epoch * self.trainer.steps + step, total, text)

        trained = self.trainer.train(epoch, advance)
        answers, loss = self.trainer.look(self.held_out)
        line = row(epoch, trained, answers, loss, time.perf_counter() - began)
        self.history.append(line)
        self.progress.note(
            f"epoch {epoch + 1}/{recipe.epochs}: loss {line['train_loss']:.4f}, accuracy {line['train_top1']:.2%}; "
            f"held out: loss {loss:.4f}, accuracy {line['test_top1']:.2%}"
        )
        if (line["test_top1"], -loss) > (self.best["top1"], -self.best["loss"]):
            self.best = {"epoch": epoch + 1, "top1": line["test_top1"], "loss": loss}
            self._publish("best", answers)
        self._publish("last", answers, self._evidence())
        self.kept = len(self.history)
        for name in (self.state, self.csv, self.png):  # what an earlier training left and this one has not
            if name not in self._listed():
                (self.transaction.folder / name).unlink(missing_ok=True)

    def _evidence(self) -> dict[str, bytes]:
        """What lies beside the last checkpoint: the state to resume from and the curve."""
        finished = len(self.history) == self.recipe.epochs
        facts = {
            "asked": self.asked,
            "history": self.history,
            "best": self.best,
            "threads": torch.get_num_threads(),
            "finished": finished,
        }
        state = finished_bytes(facts) if finished else state_bytes(self.model.module, self.trainer.optimizer, facts)
        files = {self.state: state, self.csv: table(self.history)}
        return {**files, self.png: self._picture()} if finished and can_draw() else files

    def _picture(self) -> bytes:
        return picture(self.history, f"{self.model.name} on {self.held_out.name}")

    def _listed(self) -> dict[str, Payload]:
        manifest = Artifact.open(self.transaction.folder / self.names["last"]).manifest
        return {payload.file: payload for payload in manifest.files}

    def _draw_late(self) -> None:
        """Add the picture of a training that ended before its last epoch; drawing it every time would be slow."""
        if not self.history or not can_draw() or self.png in self._listed():
            return
        last = Artifact.open(self.transaction.folder / self.names["last"])
        with storage_errors(last.path):
            for payload in last.manifest.files:
                shutil.copyfile(last.path.with_name(payload.file), self.transaction.path(payload.file))
            self.transaction.path(self.png).write_bytes(self._picture())
        files = (*last.manifest.files, Payload.of(self.transaction.path(self.png)))
        self.transaction.publish(dataclasses.replace(last.manifest, files=files))

    def _publish(self, role: str, predictions: Predictions, beside: Mapping[str, bytes] | None = None) -> Artifact:
        target = self.transaction.folder / self.names[role]
        files = {self.names[role]: weights_bytes(self.model.module), **(beside or {})}
        with storage_errors(target):
            for name, data in files.items():
                self.transaction.path(name).write_bytes(data)
        chosen = "the best epoch by these images" if role == "best" else "the last epoch"
        manifest = Manifest(
            model=self.model.name,
            slug=self.model.slug,
            format="safetensors",
            precision="fp32",
            files=tuple(Payload.of(self.transaction.path(name)) for name in files),
            inputs=self.model.inputs,
            outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", len(self.model.labels))),),
            weights=self._weights(),
            preprocessing=self.model.preprocessing,
            labels=self.model.labels,
            reference={**self.model.reference, "weights": str(target)},
            options={
                "recipe": self.asked["recipe"],
                "data": self.asked["data"],
                "epoch": len(self.history),
                "last": role == "last",
                "threads": torch.get_num_threads(),
            },
            accuracy={"data": self.asked["held_out"], "chosen": chosen, **Accuracy.of(predictions).to_dict()},
        )
        return self.transaction.publish(manifest)

    def _weights(self) -> Weights:
        begun = self.model.weights
        source = trained_on(self.trainer.data, len(self.history))
        return Weights(
            source=f"{source}, from {begun.source}" if begun.trained else source, trained=True, seed=self.recipe.seed
        )

    def _diverged(self, exc: DivergedError) -> ModelError:
        epoch = len(self.history) + 1
        kept = f"the checkpoints of epoch {epoch - 1} and of the best one are kept"
        return ModelError(
            f"the training of {self.model.name} diverged in epoch {epoch} ({exc}); "
            f"{kept if epoch > 1 else 'nothing was written'}.",
            f"a smaller learning rate than {self.recipe.lr:g}: --lr {self.recipe.lr / 10:g}",
        )

    def checkpoint(self, role: str) -> Artifact:
        """The ``best`` or the ``last`` checkpoint, held against its digest.

        Raises:
            DigestError: it is not what was written.
        """
        artifact = Artifact.open(self.transaction.folder / self.names[role])
        artifact.verify()
        return artifact

    def curve(self) -> tuple[Path, ...]:
        """The files of the training curve."""
        listed = self._listed()
        return tuple(self.transaction.folder / name for name in (self.csv, self.png) if name in listed)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    found = []
    for key in now:
        old, new = before.get(key), now[key]
        if isinstance(old, dict) and isinstance(new, dict):
            found.append(_differences(old, new, f"{key} "))
        elif old != new:
            shown = "other shapes" if key == "parameters" else f"{old!r} then, {new!r} now"
            found.append(f"{prefix}{key}: {shown}")
    return "; ".join(filter(None, found))
