"""The models that a server answers for: choosing a model's files, and opening each behind a queue."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.artifact import Artifact
from deploy.core.backend import Backend, RunSettings
from deploy.core.environment import usable_cores
from deploy.core.errors import ArtifactError, UsageError
from deploy.core.progress import Progress
from deploy.core.runner import Runner
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec, batch_symbol
from deploy.serving.batching import Batcher
from deploy.serving.metrics import Metrics
from deploy.serving.options import ServeOptions
from deploy.serving.protocol import tensor_metadata
from deploy.support.lone_file import open_artifact
from deploy.support.lookup import artifacts_of, name_of, names_of, newest_export, newest_variants
from deploy.support.provenance import stale_file
from deploy.support.runtime import Runtime, runtime_for

VERSION = "1"
"""The only version of every model."""


def choose_files(
    model: str | None, files: Sequence[Path], backend: Backend | None, store: Store, progress: Progress
) -> list[Artifact]:
    """Return the files to serve, float32 first; the first file also answers under the model's name.

    Without ``files``, every file of the model that ``backend``, or any backend, runs on this machine is served.
    """
    if model is not None and Path(model).is_file():
        files = (Path(model), *files)
    if files:
        chosen = [open_artifact(path) for path in files]
        other = next((item.path for item in chosen if item.manifest.model != chosen[0].manifest.model), None)
        if other is not None:
            raise UsageError(f"{other}: a file of another model than {chosen[0].path}.")
        if model is not None and not Path(model).is_file() and model not in names_of(chosen[0].manifest):
            raise UsageError(f"{chosen[0].path}: a file of {chosen[0].manifest.model}, not of {model}.")
    else:
        name = model or name_of(newest_export(store, progress))
        chosen = _newest_files(name, backend, store)
        if not chosen:
            for_backend = f" for {backend.title}" if backend else ""
            raise ArtifactError(f"{store.root}: no file of {name}{for_backend}.", f"deploy export {name} --format onnx")
        chosen.sort(key=lambda item: (item.manifest.precision != "fp32", item.path.name))
    model_name = chosen[0].manifest.model
    for item in list(chosen):
        runtime, reason = _runtime(item, backend)
        if runtime is not None:
            continue
        if files or backend is not None:
            raise ArtifactError(f"{item.path}: {reason}.", "deploy doctor")
        progress.note(f"{item.path.name} is not served: {reason}")
        chosen.remove(item)
    if not chosen:
        raise ArtifactError(f"{store.root}: no file of {model_name} runs on this machine.", "deploy doctor")
    return chosen


def _newest_files(name: str, backend: Backend | None, store: Store) -> list[Artifact]:
    if backend is None:
        return newest_variants(store, name)
    newest: dict[tuple[str, str, str | None], Artifact] = {}
    for artifact in artifacts_of(store, name):
        manifest = artifact.manifest
        if backend.opens(manifest.format, manifest.target):
            newest.setdefault((manifest.format, manifest.precision, manifest.target), artifact)
    return list(newest.values())


def _runtime(artifact: Artifact, backend: Backend | None) -> tuple[Runtime | None, str]:
    """Return what runs a file as intended, or None and the reason. A simulated target is not served."""
    manifest = artifact.manifest
    if backend is not None:
        runs = backend.opens(manifest.format, manifest.target)
        return (Runtime(backend=backend) if runs else None), f"{backend.title} does not run this file"
    runtime, reason = runtime_for(artifact)
    return (None if runtime is None or runtime.simulated else runtime), reason


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A file, or the PyTorch model, behind a queue.

    Attributes:
        platform: the protocol's name of the runtime and format, ``onnxruntime_onnx``.
        about: plain values for the metadata: the file, its digest, its verdict.
    """

    name: str
    platform: str
    batcher: Batcher
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the model's metadata as the protocol defines it, under one of its names."""
        return {
            "name": name,
            "versions": [VERSION],
            "platform": self.platform,
            "inputs": [tensor_metadata(spec) for spec in self.inputs],
            "outputs": [tensor_metadata(spec) for spec in self.outputs],
            "parameters": {**self.about, "max_batch": self.batcher.options.max_batch if self.batcher.batched else 0},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOpener:
    """Opens models with a backend, by default that of each file's format and target, and puts them behind queues."""

    options: ServeOptions
    metrics: Metrics
    backend: Backend | None
    changed: Mapping[str, Any] = field(default_factory=dict)

    def batcher(self, runners: Sequence[Runner], name: str, *, batched: bool) -> Batcher:
        """Create a queue for runners; its batches are counted under ``name``."""
        observe = partial(self.metrics.batch, name)
        return Batcher(runners, batched=batched, options=self.options, observe=observe)

    def open(self, artifact: Artifact) -> ServedModel:
        """Open a file and run it once with the smallest and the largest batch."""
        manifest = artifact.manifest
        runtime, reason = _runtime(artifact, self.backend)
        if runtime is None:
            raise ArtifactError(f"{artifact.path}: {reason}.", "deploy doctor")
        devices = runtime.backend.devices
        settings = RunSettings(
            device="cpu" if "cpu" in devices else devices[0],
            threads=self.options.threads or usable_cores(),
            shared_cores=True,
        )
        options = {**runtime.options(settings), **self.changed}
        module = importlib.import_module(runtime.backend.runner)
        symbol = batch_symbol(manifest.inputs, manifest.outputs)
        runners: list[Runner] = []
        try:
            for _ in range(self.options.instances):
                runners.append(module.open(artifact.path, **options))
                _warm_up(runners[-1], artifact, symbol, self.options.max_batch)
        except BaseException:
            for runner in runners:
                runner.close()
            raise
        name, stale = artifact.path.name.removesuffix(artifact.path.suffix), stale_file(artifact)
        return ServedModel(
            name=name,
            platform=f"{runtime.backend.name}_{manifest.format}",
            batcher=self.batcher(runners, name, batched=symbol is not None),
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            labels=manifest.labels,
            about={
                "file": artifact.path.name,
                "sha256": manifest.files[0].sha256,
                "parity": manifest.verdict,
                **({"stale": stale.reason} if stale else {}),
            },
        )


def _warm_up(runner: Runner, artifact: Artifact, symbol: str | None, max_batch: int) -> None:
    sizes = artifact.manifest.options.get("sizes", {})
    for batch in (1, max_batch) if symbol else (1,):
        feeds = {}
        for spec in artifact.manifest.inputs:
            bound = spec.bind({**sizes, **({symbol: batch} if symbol else {})})
            if bound.symbols:
                return  # a dimension has no known size
            feeds[spec.name] = np.full(bound.concrete({}), 0 if spec.bounds is None else spec.bounds[0], spec.dtype)
        runner.run(feeds)
