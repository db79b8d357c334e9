"""From names and choices to cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.bench.cells import (
    REFERENCE,
    PlannedCell,
    evidence_of,
    fingerprint,
    sizes_at,
)
from deploy.bench.proof import Prover, proven
from deploy.bench.records import Cell, SkippedCell, load, record_path
from deploy.bench.subject import INT8, TimedModel
from deploy.core.artifact import Artifact, sha256
from deploy.core.backend import ENGINE, ONNX, RunSettings, find_backend
from deploy.core.errors import DeployError, UnknownNameError
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.models.request import ModelRequest

EAGER = {"verdict": REFERENCE, "reasons": [], "by": "it is what the others are held against"}


Wanted = Callable[[str, str, str], bool]
"""Of a model, a backend and a precision: whether they are to be timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What a benchmark was asked for.

    Attributes:
        asked: the backends were named, and are not a choice of ours.
        precisions: None takes those that a model has files of.
        calib: data to quantize with where an INT8 file is missing.
        sizes: of symbolic dimensions other than the batch.
        options: of the scenario, part of every cell.
        wanted: which combinations.
        graph: replay CUDA graphs where a backend has them.
        kind: of this machine, in a sweep over several.
    """

    backends: tuple[str, ...]
    precisions: tuple[str, ...] | None
    batches: tuple[int, ...]
    threads: int
    asked: bool = True
    device: str = "cpu"
    calib: str | None = None
    seed: int = 0
    scenario: str = "latency"
    sizes: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    wanted: Wanted = lambda model, backend, precision: True
    graph: bool = False
    kind: str | None = None


def plan_model(
    request: ModelRequest, choices: Choices, store: Store, scratch: Path, progress: Progress
) -> tuple[list[PlannedCell], list[SkippedCell]]:
    """The cells of a model, or of one file, proven; and what cannot be timed, with the reason.

    Args:
        request: the model or file.
        choices: of the benchmark.
        store: where files are found and made.
        scratch: a folder for weights, which must live as long as the plans.
        progress: told of everything that is made.

    Raises:
        DeployError: the model is not known, or a file is damaged.
    """
    subject = TimedModel(request, store, scratch, choices.calib, progress)
    found = list(_cells(subject, choices, store, progress))
    return [item for item in found if isinstance(item, PlannedCell)], [
        item for item in found if isinstance(item, SkippedCell)
    ]


def _cells(
    subject: TimedModel, choices: Choices, store: Store, progress: Progress
) -> Iterator[PlannedCell | SkippedCell]:
    backends = choices.backends if choices.asked else _fitting(subject, choices)
    provers: list[Prover] = []
    for precision in choices.precisions or subject.precisions():
        found: dict[str, list[PlannedCell | SkippedCell]] = {}
        # what runs files comes first: a model is timed at the sizes that its files have
        for backend in sorted(backends, key=lambda name: not find_backend(name).runs_files):
            if choices.wanted(subject.name, backend, precision):
                found[backend] = [
                    _cell(subject, choices, backend, precision, batch, store, provers, progress)
                    for batch in choices.batches
                ]
        for backend in backends:
            yield from found.get(backend, ())


def _cell(
    subject: TimedModel,
    choices: Choices,
    backend: str,
    precision: str,
    batch: int,
    store: Store,
    provers: list[Prover],
    progress: Progress,
) -> PlannedCell | SkippedCell:
    """One cell, proven; or why there is none."""
    try:
        plan = _remembered(_plan(subject, choices, backend, precision, batch), store)
        if plan.evidence is None:
            if not provers:
                provers.append(Prover(subject.model(), choices.seed))
            with progress.stage(f"{plan.cell}: checking parity"):
                plan = proven(plan, provers[0])
        return plan
    except UnknownNameError:
        raise
    except DeployError as exc:
        return SkippedCell(
            model=subject.name,
            backend=backend,
            precision=precision,
            batch=batch,
            why=exc.message,
            machine=choices.kind,
        )


def _fitting(subject: TimedModel, choices: Choices) -> tuple[str, ...]:
    """Where no backend was asked for: those that run the file, or all."""
    own = subject.backends()
    if own is not None:
        return own
    return tuple(name for name in choices.backends if find_backend(name).runs_files or not subject.is_file)


def _remembered(plan: PlannedCell, store: Store) -> PlannedCell:
    """With the evidence of an earlier run of the very same cell."""
    path = record_path(store.root, plan.cell)
    if plan.evidence is not None or not path.is_file():
        return plan
    try:
        return dataclasses.replace(plan, evidence=load(path).evidence)
    except DeployError:
        return plan


def _plan(subject: TimedModel, choices: Choices, backend: str, precision: str, batch: int) -> PlannedCell:
    """One cell.

    Raises:
        DeployError: there cannot be one.
    """
    runs = find_backend(backend)
    if precision not in runs.precisions:
        raise DeployError(f"{backend} does not run {precision}.")
    if choices.device not in runs.devices:
        raise DeployError(f"{backend} does not run on {choices.device}.")
    if choices.graph and not runs.cuda_graphs:
        raise DeployError(f"{backend} cannot replay CUDA graphs.")
    if precision == INT8 and ONNX in runs.formats and not runs.targets:
        raise DeployError(f"{backend} declares no quantization target, so there is no INT8 file for it.")
    common = {
        "backend": backend,
        "precision": precision,
        "batch": batch,
        "threads": choices.threads,
        "device": choices.device,
        "scenario": choices.scenario,
        "options": {**choices.options, **({"graph": True} if choices.graph else {})},
        "versions": runs.versions(),
        "machine": fingerprint(choices.device, choices.kind),
    }
    if ENGINE in runs.formats:
        return _of_file(subject.engine(precision), choices, common)
    if runs.runs_files:
        return _of_file(subject.file(precision, runs.targets[0] if precision == INT8 else None), choices, common)
    if subject.is_file:
        raise DeployError(f"{backend} runs models, not files.")
    return _of_model(subject, choices, common)


def _of_file(artifact: Artifact, choices: Choices, common: dict[str, Any]) -> PlannedCell:
    manifest = artifact.manifest
    sizes = sizes_at(manifest.inputs, common["batch"], {**manifest.options.get("sizes", {}), **choices.sizes})
    backend = find_backend(common["backend"])
    cell = Cell(
        model=manifest.model,
        slug=manifest.slug,
        digest=manifest.files[0].sha256,
        target=manifest.target,
        sizes=sizes,
        **common,
    )
    about = {
        "file": artifact.path.name,
        "bytes": sum(item.bytes for item in manifest.files),
        "trained": manifest.weights.trained,
        "weights": list(manifest.weights.identity),
        "top1": (((manifest.parity or {}).get("accuracy")) or {}).get("top1"),
    }
    return PlannedCell(
        cell=cell,
        path=artifact.path,
        model=None,
        options=backend.options(_settings(choices, common["precision"])),
        inputs=manifest.inputs,
        evidence=evidence_of(artifact, backend, choices.device),
        about=about,
    )


def _settings(choices: Choices, precision: str) -> RunSettings:
    return RunSettings(device=choices.device, threads=choices.threads, precision=precision, cuda_graph=choices.graph)


def _of_model(subject: TimedModel, choices: Choices, common: dict[str, Any]) -> PlannedCell:
    model, inputs = subject.model(), subject.inputs()
    sizes = sizes_at(inputs, common["batch"], {**model.sizes, **choices.sizes})
    request, weights = subject.rebuilt()
    backend = find_backend(common["backend"])
    eager = backend.reference and (common["precision"], choices.device) == ("fp32", "cpu")
    return PlannedCell(
        cell=Cell(model=model.name, slug=model.slug, digest=sha256(weights), sizes=sizes, **common),
        path=None,
        model=request,
        options=backend.options(_settings(choices, common["precision"])),
        inputs=inputs,
        evidence=EAGER if eager else None,
        about={
            "file": None,
            "bytes": weights.stat().st_size,
            "trained": model.weights.trained,
            "weights": list(model.weights.identity),
        },
    )
