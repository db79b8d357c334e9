"""``deploy bench``: how long every artifact takes on every backend, each in processes of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.bench.cells import PASSED, PlannedCell, check_scenario, choose_backends
from deploy.bench.interference import Conditions, conditions
from deploy.bench.limits import Floor
from deploy.bench.measured_limits import floor_of, measured_limits, work_of
from deploy.bench.plan import Choices, Wanted, plan_model
from deploy.bench.records import CellRecord, SkippedCell, load, record_path, save, save_absent
from deploy.bench.repetition import Budget, repeat
from deploy.bench.rows import LatencyRow, rows_of
from deploy.bench.schedule import interleaved
from deploy.core.environment import machine, now, usable_cores, versions
from deploy.core.errors import ArtifactError, DeployError, UsageError
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.models.request import ModelRequest

REPETITIONS = 5
BASELINE = "torch"

Listener = Callable[[Sequence[LatencyRow]], None]
"""Told of all rows so far whenever one has changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkReport:
    """What `measure_speed` measured.

    Attributes:
        rows: a cell each, in the order of models, precisions, backends and batches.
        absent: cells that could not be timed, and why.
        conditions: of the machine when it began.
        seconds: wall time.
    """

    rows: tuple[LatencyRow, ...]
    absent: tuple[SkippedCell, ...]
    conditions: Conditions
    seed: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "machine": machine(),
            "versions": versions(),
            "conditions": asdict(self.conditions),
            "seed": self.seed,
            "rows": [row.to_dict() for row in self.rows],
            "absent": [item.to_dict() for item in self.absent],
            "seconds": round(self.seconds, 3),
        }


def measure_speed(
    models: Sequence[str | ModelRequest] = (),
    *,
    backends: Sequence[str] = (),
    precisions: Sequence[str] | None = None,
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    device: str = "cpu",
    graph: bool = False,
    scenario: str = "latency",
    options: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    calib: str | None = None,
    repetitions: int = REPETITIONS,
    budget: Budget | None = None,
    seed: int = 0,
    again: bool = False,
    baseline: str = BASELINE,
    limits: bool = False,
    artifacts: Path | None = None,
    progress: Progress = SILENT,
    listener: Listener = lambda rows: None,
    wanted: Wanted = lambda model, backend, precision: True,
    kind: str | None = None,
) -> BenchmarkReport:
    """Time models on backends.

    Args:
        models: names or files of the store; none takes every model in the store.
        backends: as users name them; none takes torch, onnxruntime and openvino where installed.
        precisions: ``fp32``, ``fp16``, ``int8``; None takes those that there are files of.
        batches: sizes of the batch.
        threads: within an operator, for every backend; None for all cores this process may use.
        device: ``cpu`` or ``cuda``.
        graph: replay CUDA graphs; such cells are labeled.
        scenario: ``latency``, or a file of `deploy.bench.scenarios`.
        options: of the scenario.
        sizes: of symbolic dimensions other than the batch.
        calib: data to quantize with where an INT8 file is missing.
        repetitions: processes a cell.
        budget: of each process.
        seed: of inputs, untrained weights and the order.
        again: measure what was measured before.
        baseline: the backend, in float32, whose times the speed-ups are against.
        limits: measure what the machine can do at best, once, and tell how near each row comes.
        artifacts: the artifacts directory.
        progress: told what happens.
        listener: told of rows as they come.
        wanted: which of the combinations to time.
        kind: of this machine, in a sweep over several: rows of different kinds are told apart by it.

    Raises:
        DeployError: see `deploy.core.errors`; a cell that fails is a row, not an error.
    """
    began = time.perf_counter()
    if repetitions < 1:
        raise UsageError("at least one repetition is needed.")
    budget = budget or Budget()
    store = Store(artifacts or default_root())
    choices = Choices(
        backends=choose_backends(tuple(backends)),
        asked=bool(backends),
        precisions=tuple(precisions) if precisions else None,
        batches=tuple(batches),
        threads=threads or usable_cores(),
        device=device,
        calib=calib,
        seed=seed,
        scenario=scenario,
        sizes=dict(sizes or {}),
        options={"time_s": budget.time_s, **(options or {})},
        wanted=wanted,
        graph=graph,
        kind=kind,
    )
    check_scenario(scenario)
    present = conditions()
    for warning in present.warnings:
        progress.warn(warning)
    with tempfile.TemporaryDirectory(prefix="deploy-bench-") as scratch:
        plans: list[PlannedCell] = []
        absent: list[SkippedCell] = []
        for request in _requests(models, store):
            found, missing = plan_model(request, choices, store, Path(scratch), progress)
            plans += found
            absent += missing + [_unproven(plan, kind) for plan in found if not _proven(plan)]
        for item in absent:
            save_absent(store.root, item)
        ready = [plan for plan in plans if _proven(plan)]
        here = {**machine(), **({"kind": kind} if kind else {})}
        around = {"machine": here, "versions": versions(), "conditions": asdict(present), "seed": seed}
        records = {plan.cell.key: _begun(plan, store, around, again=again) for plan in ready}
        floors = _floors(records, choices.threads, store, progress) if limits else {}

        def rows() -> list[LatencyRow]:
            return rows_of(list(records.values()), baseline, floors)

        _measure(ready, records, repetitions, budget, seed, store, progress, lambda: listener(rows()))
    return BenchmarkReport(
        rows=tuple(rows()),
        absent=tuple(absent),
        conditions=present,
        seed=seed,
        seconds=time.perf_counter() - began,
    )


def _floors(records: Mapping[str, CellRecord], threads: int, store: Store, progress: Progress) -> dict[str, Floor]:
    """The floor of every cell whose work is known."""
    limits = measured_limits(threads, store, progress)
    found = {key: floor_of(record, limits) for key, record in records.items()}
    return {key: item for key, item in found.items() if item is not None}


def _requests(models: Sequence[str | ModelRequest], store: Store) -> list[ModelRequest]:
    """What to time; without names, every model that has an export in the store.

    Raises:
        ArtifactError: there is none.
    """
    if models:
        return [ModelRequest(name=item) if isinstance(item, str) else item for item in models]
    found = [artifact.manifest.model for artifact in store.artifacts() if artifact.manifest.format == "onnx"]
    if not found:
        raise ArtifactError(f"{store.root}: no model there.", "deploy export MODEL --format onnx")
    return [ModelRequest(name=name) for name in sorted(set(found))]


def _proven(plan: PlannedCell) -> bool:
    return plan.evidence is not None and plan.evidence["verdict"] in PASSED


def _unproven(plan: PlannedCell, kind: str | None) -> SkippedCell:
    evidence = plan.evidence or {"verdict": "unproven", "reasons": []}
    why = f"no number without parity: {evidence['verdict']}: {'; '.join(evidence['reasons'][:2])}"
    cell = plan.cell
    return SkippedCell(
        model=cell.model, backend=cell.backend, precision=cell.precision, batch=cell.batch, why=why, machine=kind
    )


def _begun(plan: PlannedCell, store: Store, around: Mapping[str, Any], *, again: bool) -> CellRecord:
    """The record of an earlier run to go on with, or a new one that says what is around it."""
    path = record_path(store.root, plan.cell)
    if path.is_file() and not again:
        try:
            return load(path)
        except DeployError:
            pass
    about = {**plan.about, **work_of(plan, store), **around, "created": now()}
    return CellRecord(cell=plan.cell, evidence=plan.evidence or {}, about=about)


def _measure(
    plans: Sequence[PlannedCell],
    records: dict[str, CellRecord],
    repetitions: int,
    budget: Budget,
    seed: int,
    store: Store,
    progress: Progress,
    tell: Callable[[], None],
) -> None:
    """Fill the records up, process by process; each is on the disk before the next begins."""
    by_key = {plan.cell.key: plan for plan in plans}
    left = [
        (number, key)
        for number, key in interleaved(sorted(by_key), repetitions, seed)
        if all(item.number != number for item in records[key].repetitions)
    ]
    tell()
    with progress.stage("timing"):
        for done, (number, key) in enumerate(left):
            plan = by_key[key]
            progress.advance(done, len(left), f"{plan.cell}, process {number + 1} of {repetitions}")
            if records[key].failure:  # what failed once is not tried again
                continue
            records[key] = records[key].adding(repeat(plan, number, budget, seed, store))
            save(store.root, records[key])
            tell()
        progress.advance(len(left), len(left), "timing")
