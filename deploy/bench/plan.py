"""From model names and choices to planned cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.bench.cells import REFERENCE, PlannedCell, evidence_of, fingerprint, sizes_at
from deploy.bench.records import Cell, SkippedCell, load, record_path
from deploy.bench.timed_model import INT8, TimedModel
from deploy.core.artifact import Artifact, sha256
from deploy.core.backend import ENGINE, ONNX, Backend, RunSettings, find_backend
from deploy.core.errors import DeployError, DigestError, UnknownNameError
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.core.tensors import batch_dimension
from deploy.models.request import ModelRequest
from deploy.support.deployment import FIXING, VARIANT, Deployment
from deploy.support.lone_file import assumed_batch, why_unproven
from deploy.support.provenance import stale_file

if TYPE_CHECKING:
    from deploy.bench.parity import ParityChecker

EAGER = {"verdict": REFERENCE, "reasons": [], "by": "the reference of the other backends"}

Wanted = Callable[[str, str, str], bool]
"""From model, backend and precision to whether the combination is timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What to time: the arguments of `deploy.bench.measure.measure_speed`.

    Attributes:
        named: the user named the backends; otherwise they are the default ones.
        sizes: sizes of symbolic dimensions other than the batch, as the user gave them.
        options: options of the scenario, part of every cell.
        chosen: the choice of ``deploy optimize`` that is timed; None for a model or a file.
    """

    backends: tuple[str, ...]
    precisions: tuple[str, ...] | None
    batches: tuple[int, ...]
    threads: int
    named: bool = True
    device: str = "cpu"
    calib: str | None = None
    seed: int = 0
    scenario: str = "latency"
    sizes: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    wanted: Wanted = lambda model, backend, precision: True
    graph: bool = False
    kind: str | None = None
    chosen: Deployment | None = None

    def settings(self, precision: str) -> RunSettings:
        """Return how a backend runs a cell of this precision."""
        return RunSettings(device=self.device, threads=self.threads, precision=precision, cuda_graph=self.graph)


def plan_model(
    request: ModelRequest, choices: Choices, store: Store, scratch: Path, progress: Progress
) -> tuple[list[PlannedCell], list[SkippedCell]]:
    """Plan the cells of a model or file, each with its parity evidence: those that can be timed, and those skipped.

    The folder ``scratch`` is for weight files and must live as long as the cells are timed.
    """
    model = TimedModel(request, store, scratch, choices.calib, progress)
    _note(model, choices, progress)
    found = list(_cells(model, choices, store, progress))
    planned = [item for item in found if isinstance(item, PlannedCell)]
    for text in dict.fromkeys(str(item.stale) for item in planned if item.stale):
        progress.warn(text)
    return planned, [item for item in found if isinstance(item, SkippedCell)]


def _note(model: TimedModel, choices: Choices, progress: Progress) -> None:
    """Say what is assumed of a file that was made elsewhere."""
    for artifact in model.files if model.is_file else ():
        if unproven := why_unproven(artifact):
            progress.note(unproven)
        inputs = artifact.manifest.inputs
        if (assumed := assumed_batch(artifact.path, inputs)) and batch_dimension(inputs) not in choices.sizes:
            progress.note(assumed)


def _cells(
    model: TimedModel, choices: Choices, store: Store, progress: Progress
) -> Iterator[PlannedCell | SkippedCell]:
    backends = choices.backends if choices.named else _fitting(model, choices)
    checkers: list[ParityChecker] = []
    name = model.files[0].manifest.model if model.is_file else model.name
    for precision in choices.precisions or model.precisions():
        found: dict[str, list[PlannedCell | SkippedCell]] = {}
        # backends that run files come first, so that PyTorch is timed at the sizes that the files fix
        for backend in sorted(backends, key=lambda name: not find_backend(name).runs_files):
            if choices.wanted(name, backend, precision):
                found[backend] = [
                    _cell(model, choices, backend, precision, batch, store, checkers, progress)
                    for batch in choices.batches
                ]
        for backend in backends:
            yield from found.get(backend, ())


def _cell(
    model: TimedModel,
    choices: Choices,
    backend: str,
    precision: str,
    batch: int,
    store: Store,
    checkers: list[ParityChecker],
    progress: Progress,
) -> PlannedCell | SkippedCell:
    try:
        plan = _plan(model, choices, find_backend(backend), precision, batch)
        if choices.chosen is not None:
            plan = _as_chosen(plan, choices.chosen, progress)
        plan = _with_recorded_evidence(plan, store)
        if plan.evidence is None:
            from deploy.bench.parity import ParityChecker  # imports PyTorch

            if not checkers:
                checkers.append(ParityChecker(model.model(), choices.seed))
            with progress.stage(f"{plan.cell}: checking parity"):
                plan = checkers[0].check(plan)
        return plan
    except UnknownNameError:
        raise
    except DeployError as exc:
        return SkippedCell(
            model=model.name,
            backend=backend,
            precision=precision,
            batch=batch,
            reason=exc.message,
            machine=choices.kind,
        )


def _as_chosen(plan: PlannedCell, choice: Deployment, progress: Progress) -> PlannedCell:
    """Return a cell with the options and the evidence of a choice, if it runs what was chosen."""
    cell, changed = plan.cell, choice.changed
    if (cell.backend, cell.precision, cell.device) != (choice.backend, choice.precision, choice.device):
        return plan
    if cell.digest != choice.sha256:
        raise DigestError("other weights than those that were timed for the choice.", f"deploy optimize {choice.model}")
    if cell.batch != choice.batch and FIXING.intersection(changed):
        progress.note(f"{cell}: sizes are not fixed, unlike in the choice, which is for batch {choice.batch}")
        return plan
    variant = {VARIANT: choice.variant} if choice.variant else {}
    return dataclasses.replace(
        plan,
        cell=dataclasses.replace(cell, options={**cell.options, **changed, **variant}),
        options={**plan.options, **changed},
        evidence=choice.evidence,
    )


def _fitting(model: TimedModel, choices: Choices) -> tuple[str, ...]:
    """Return the backends where none was named: those that can run the file, or all default ones."""
    own = model.backends()
    if own is not None:
        return own
    return tuple(name for name in choices.backends if find_backend(name).runs_files or not model.is_file)


def _with_recorded_evidence(plan: PlannedCell, store: Store) -> PlannedCell:
    """Return the cell with the evidence of an earlier run of the same cell, where there is one."""
    path = record_path(store.root, plan.cell)
    if plan.evidence is not None or not path.is_file():
        return plan
    try:
        return dataclasses.replace(plan, evidence=load(path).evidence)
    except DeployError:
        return plan


def _plan(model: TimedModel, choices: Choices, backend: Backend, precision: str, batch: int) -> PlannedCell:
    if precision not in backend.precisions:
        raise DeployError(f"{backend.name} does not run {precision}.")
    if choices.device not in backend.devices:
        raise DeployError(f"{backend.name} does not run on {choices.device}.")
    if choices.graph and not backend.cuda_graphs:
        raise DeployError(f"{backend.name} cannot replay CUDA graphs.")
    if precision == INT8 and ONNX in backend.formats and not backend.targets:
        raise DeployError(f"{backend.name} declares no quantization target, so there is no INT8 file for it.")
    common = {
        "backend": backend.name,
        "precision": precision,
        "batch": batch,
        "threads": choices.threads,
        "device": choices.device,
        "scenario": choices.scenario,
        "options": {**choices.options, **({"graph": True} if choices.graph else {})},
        "versions": backend.versions(),
        "machine": fingerprint(choices.device, choices.kind),
    }
    if ENGINE in backend.formats:
        return _of_file(model, model.engine(precision), backend, choices, common)
    if backend.runs_files:
        target = backend.targets[0] if precision == INT8 else None
        return _of_file(model, model.file(precision, target), backend, choices, common)
    if model.is_file:
        raise DeployError(f"{backend.name} runs models, not files.")
    return _of_model(model, backend, choices, common)


def _of_file(
    timed: TimedModel, artifact: Artifact, backend: Backend, choices: Choices, common: dict[str, Any]
) -> PlannedCell:
    manifest = artifact.manifest
    return PlannedCell(
        cell=Cell(
            model=manifest.model,
            slug=manifest.slug,
            digest=manifest.files[0].sha256,
            target=manifest.target,
            sizes=sizes_at(manifest.inputs, common["batch"], manifest.options.get("sizes", {}), choices.sizes),
            **common,
        ),
        path=artifact.path,
        model=None,
        options=backend.options(choices.settings(common["precision"])),
        inputs=manifest.inputs,
        evidence=evidence_of(artifact, backend, choices.settings(common["precision"])),
        about={
            "file": artifact.path.name,
            "given": timed.name,
            "sizes": dict(choices.sizes),
            "bytes": sum(item.bytes for item in manifest.files),
            "trained": manifest.weights.trained,
            "weights": list(manifest.weights.identity),
            "top1": (((manifest.parity or {}).get("accuracy")) or {}).get("top1"),
        },
        stale=stale_file(artifact),
    )


def _of_model(timed: TimedModel, backend: Backend, choices: Choices, common: dict[str, Any]) -> PlannedCell:
    model, inputs = timed.model(), timed.inputs()
    request, weights = timed.rebuilt()
    sizes = sizes_at(inputs, common["batch"], model.sizes, choices.sizes)
    is_reference = backend.reference and (common["precision"], choices.device) == ("fp32", "cpu")
    return PlannedCell(
        cell=Cell(model=model.name, slug=model.slug, digest=sha256(weights), sizes=sizes, **common),
        path=None,
        model=request,
        options=backend.options(choices.settings(common["precision"])),
        inputs=inputs,
        evidence=EAGER if is_reference else None,
        about={
            "file": None,
            "given": timed.name,
            "sizes": dict(choices.sizes),
            "bytes": weights.stat().st_size,
            "trained": model.weights.trained,
            "weights": list(model.weights.identity),
        },
    )
