"""Which files of a model are served, and each behind its queue."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.core.artifact import Artifact
from deploy.core.backend import RunSettings
from deploy.core.environment import usable_cores
from deploy.core.errors import ArtifactError, UsageError
from deploy.core.progress import Progress
from deploy.core.runner import Runner
from deploy.core.store import Store
from deploy.core.tensors import batch_symbol
from deploy.serving.batching import Batcher, BatchingLimits
from deploy.serving.metrics import Metrics
from deploy.serving.served import ServedModel
from deploy.support.lookup import newest_export, newest_variants
from deploy.support.runtime import Runtime, runtime_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """How files are opened and put behind queues.

    Attributes:
        instances: runners of every file.
        threads: of every runner; None for all cores this process may use.
    """

    limits: BatchingLimits
    metrics: Metrics
    instances: int
    threads: int | None

    def batcher(self, runners: Sequence[Runner], name: str, *, batched: bool) -> Batcher:
        """A queue before runners, whose batches are counted under a name."""

        def observe(samples: int, ran: float, waited: list[float]) -> None:
            self.metrics.batch(name, samples, ran, waited)

        return Batcher(runners, batched=batched, limits=self.limits, observe=observe)


def choose(model: str | None, files: Sequence[Path], store: Store, progress: Progress) -> list[Artifact]:
    """What to serve, float32 first: the first answers under the model's name.

    Raises:
        ArtifactError: there is nothing that runs here, or a file that was named does not.
        UsageError: files of several models.
    """
    if model is not None and Path(model).is_file():
        files = (Path(model), *files)
    if files:
        chosen = [Artifact.open(path) for path in files]
        other = next((item.path for item in chosen if item.manifest.model != chosen[0].manifest.model), None)
        if other is not None:
            raise UsageError(f"{other} is of another model than {chosen[0].path}.")
    else:
        name = model or newest_export(store, progress).manifest.model
        chosen = newest_variants(store, name)
        if not chosen:
            raise ArtifactError(f"{store.root}: there is no file of {name}.", f"deploy export {name} --format onnx")
        chosen.sort(key=lambda item: (item.manifest.precision != "fp32", item.path.name))
    for item in [item for item in chosen if _runtime(item) is None]:
        reason = f"{item.path.name} is not served: what runs {item.manifest.target or item.manifest.format} is not here"
        if files:
            raise ArtifactError(f"{reason}.", "deploy doctor")
        progress.note(reason)
        chosen.remove(item)
    if not chosen:
        raise ArtifactError("none of its files runs here.", "deploy doctor tells why")
    return chosen


def _runtime(artifact: Artifact) -> Runtime | None:
    """What runs a file as its target would; a prediction is not served."""
    found = runtime_of(artifact.manifest.format, artifact.manifest.target)
    return None if found is None or found.simulated else found


def open_served(artifact: Artifact, opening: Opening) -> ServedModel:
    """Open a file, run it once at the smallest and the largest batch, and put it behind a queue.

    Raises:
        BackendError: its runtime refused it.
    """
    manifest = artifact.manifest
    runtime = _runtime(artifact)
    if runtime is None:
        raise ArtifactError(f"{artifact.path}: nothing here runs it.")
    backend = importlib.import_module(runtime.backend.runner)
    options = runtime.options(RunSettings(threads=opening.threads or usable_cores(), shared_cores=True))
    symbol = batch_symbol(manifest.inputs, manifest.outputs)
    runners: list[Runner] = []
    try:
        for _ in range(opening.instances):
            runners.append(backend.open(artifact.path, **options))
            _warm(runners[-1], artifact, symbol, opening.limits.max_batch)
    except BaseException:
        for runner in runners:
            runner.close()
        raise
    name = artifact.path.name.removesuffix(artifact.path.suffix)
    about = {"file": artifact.path.name, "sha256": manifest.files[0].sha256}
    return ServedModel(
        name=name,
        platform=f"{runtime.backend.name}_{manifest.format}",
        batcher=opening.batcher(runners, name, batched=symbol is not None),
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        labels=manifest.labels,
        about={**about, "parity": (manifest.parity or {}).get("verdict", "")},
    )


def _warm(runner: Runner, artifact: Artifact, symbol: str | None, most: int) -> None:
    known = artifact.manifest.options.get("sizes", {})
    for batch in (1, most) if symbol else (1,):
        feeds = {}
        for spec in artifact.manifest.inputs:
            bound = spec.bind({**known, **({symbol: batch} if symbol else {})})
            if bound.symbols:
                return  # a size that nobody knows yet
            feeds[spec.name] = np.full(bound.concrete({}), 0 if spec.bounds is None else spec.bounds[0], spec.dtype)
        runner.run(feeds)
