"""``deploy bench``: time every artifact on every backend, each cell in fresh processes."""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deploy.bench.cells import PlannedCell, check_scenario, check_sizes, choose_backends
from deploy.bench.interference import Conditions, conditions
from deploy.bench.limits import Floor, floor_of, machine_limits, work_of
from deploy.bench.plan import Choices, Wanted, plan_model
from deploy.bench.records import CellRecord, SkippedCell, load, record_path, save, save_skipped
from deploy.bench.repetition import Budget, repeat
from deploy.bench.rows import LatencyRow, rows_of
from deploy.core.backend import find_backend
from deploy.core.brief import brief
from deploy.core.environment import machine, now, usable_cores, versions
from deploy.core.errors import ArtifactError, DeployError, UsageError
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.models.given import as_requests
from deploy.models.request import ModelRequest
from deploy.support.deployment import Deployment, is_deployment
from deploy.support.deployment import load as load_choice
from deploy.support.lookup import name_of
from deploy.support.provenance import Stale

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike

REPETITIONS = 5
QUICK_REPETITIONS, QUICK_S, QUICK_WARM_S = 3, 0.15, 1.0
"""Processes of a first look, and the seconds that each times and warms up."""
BASELINE = "torch"

Listener = Callable[[Sequence[LatencyRow]], None]
"""Called with all rows so far whenever one has changed."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class BenchmarkReport:
    """Result of `measure_speed`: rows ordered by model, precision, backend and batch size, and the skipped cells.

    Attributes:
        conditions: state of the machine at the start.
        seed: seed of the inputs and of the order of processes.
        seconds: duration of the call.
        stale: files that were timed and were made from other weights than the export beside them.
    """

    rows: tuple[LatencyRow, ...]
    skipped: tuple[SkippedCell, ...]
    conditions: Conditions
    seed: int
    seconds: float
    stale: tuple[Stale, ...] = ()

    def __repr__(self) -> str:
        stale = f"{len(self.stale)} stale" if self.stale else ""
        return brief(self, f"{len(self.rows)} rows", f"{len(self.skipped)} skipped", stale)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "machine": machine(),
            "versions": versions(),
            "conditions": asdict(self.conditions),
            "seed": self.seed,
            "rows": [row.to_dict() for row in self.rows],
            "skipped": [item.to_dict() for item in self.skipped],
            "stale": to_plain(self.stale),
            "seconds": round(self.seconds, 3),
        }


def measure_speed(
    models: Sequence[ModelLike] = (),
    *,
    inputs: ExampleInputs | None = None,
    backends: Sequence[str] = (),
    precisions: Sequence[Literal["fp32", "fp16", "bf16", "int8"]] | None = None,
    batches: Sequence[int] | None = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    graph: bool = False,
    scenario: str = "latency",
    options: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    calib: str | None = None,
    repetitions: int = REPETITIONS,
    budget: Budget | None = None,
    seed: int = 0,
    again: bool = False,
    quick: bool = False,
    baseline: str = BASELINE,
    limits: bool = False,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
    listener: Listener = lambda rows: None,
    wanted: Wanted = lambda model, backend, precision: True,
    kind: str | None = None,
) -> BenchmarkReport:
    """Time models on backends.

    Args:
        models: model names, ONNX files, other files with a manifest, artifacts, requests, or modules in memory; the
            ``deployment.json`` of `deploy.optimize`, which is timed as chosen; none takes every exported model in the
            artifacts directory.
        inputs: of the modules in memory, see `deploy.ExampleInputs`; `deploy.module_request` gives each its own.
        backends: names of backends; none takes the installed default ones.
        precisions: ``fp32``, ``fp16``, ``bf16`` (PyTorch), ``int8``; None takes those that have a file.
        batches: batch sizes; default 1, or that of the choice.
        threads: threads within an operator, for every backend; None takes all cores of this process, or the choice's.
        device: ``cpu`` or ``cuda``.
        graph: replay CUDA graphs; such cells are labeled.
        scenario: ``latency``, or a plug-in of `deploy.bench.scenarios`.
        options: options of the scenario.
        sizes: sizes of symbolic dimensions other than the batch.
        calib: calibration data for a missing INT8 file.
        repetitions: worker processes per cell.
        budget: time limits of each process.
        seed: seed of inputs, untrained weights and the order of processes.
        again: repeat measurements that are already recorded.
        quick: take a first look: a few short processes per cell, which are not recorded.
        baseline: the backend, in float32, that speedups are relative to.
        limits: measure the peak rates of this machine once, and the floor of each cell.
        artifacts: artifacts directory.
        progress: receives progress messages.
        listener: called with the rows as they come.
        wanted: selects combinations.
        kind: kind of this machine, in a sweep over several; rows carry it.

    Returns:
        The report; a cell that fails is a row with the reason.

    Raises:
        UsageError: an argument is wrong, or names an unknown backend or scenario.
        DeployError: a model is unknown or a file is damaged.
    """
    began = time.perf_counter()
    if repetitions < 1:
        raise UsageError("at least one repetition is needed.")
    if calib is not None and "int8" not in (precisions or ()):
        raise UsageError("--calib has no effect without --precision int8.")
    if graph and device != "cuda":
        raise UsageError("--graph has no effect without --device cuda.")
    find_backend(baseline)
    check_scenario(scenario)
    budget = budget or Budget()
    if quick:
        usual = Budget(patience_s=budget.patience_s)
        if again or budget != usual or repetitions != REPETITIONS:
            raise UsageError("a first look has its own number and time of processes, and repeats nothing recorded.")
        repetitions = QUICK_REPETITIONS
        budget = dataclasses.replace(usual, time_s=QUICK_S, warm_s=QUICK_WARM_S)
    store = Store.at(artifacts)
    choices = Choices(
        backends=choose_backends(tuple(backends)),
        named=bool(backends),
        precisions=tuple(precisions) if precisions else None,
        batches=tuple(batches or (1,)),
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
    present = conditions()
    for warning in present.warnings:
        progress.warn(warning)
    with tempfile.TemporaryDirectory(prefix="deploy-bench-") as scratch:
        wishes = [
            (request, choices if choice is None else _choices_of(choice, choices, batches=batches, threads=threads))
            for request, choice in _requests(models, inputs, store)
        ]
        ready, skipped = _plan(wishes, choices, store, Path(scratch), progress)
        for item in () if quick else skipped:
            save_skipped(store.root, item)
        here = {**machine(), **({"kind": kind} if kind else {})}
        context = {"machine": here, "versions": versions(), "conditions": asdict(present), "seed": seed}
        records = {plan.cell.key: _start_or_resume(plan, store, context, again=again or quick) for plan in ready}
        _note_earlier(records.values(), repetitions, progress)
        floors = _floors(records, store, progress) if limits else {}

        def rows() -> list[LatencyRow]:
            return rows_of(list(records.values()), baseline, floors)

        kept = None if quick else store
        _measure(ready, records, repetitions, budget, seed, store, kept, progress, lambda: listener(rows()))
    return BenchmarkReport(
        rows=tuple(rows()),
        skipped=tuple(skipped),
        conditions=present,
        seed=seed,
        seconds=time.perf_counter() - began,
        stale=tuple(dict.fromkeys(plan.stale for plan in ready if plan.stale)),
    )


def _requests(
    models: Sequence[ModelLike], inputs: ExampleInputs | None, store: Store
) -> list[tuple[ModelRequest, Deployment | None]]:
    """Return what to time, each with the choice it stands for; without names, every model with an ONNX file here."""
    choices = [load_choice(Path(item)) if is_deployment(item) else None for item in models]
    named = [
        choice.model if choice is not None and choice.file is None else item
        for item, choice in zip(models, choices, strict=True)
    ]
    requests = as_requests(named, inputs)
    if requests:
        return list(zip(requests, choices, strict=True))
    found = {name_of(artifact) for artifact in store.artifacts() if artifact.manifest.format == "onnx"}
    if not found:
        raise ArtifactError(f"{store.root}: no exported model found.", "deploy export MODEL --format onnx")
    return [(ModelRequest(name=name), None) for name in sorted(found)]


def _choices_of(choice: Deployment, choices: Choices, *, batches: Sequence[int] | None, threads: int | None) -> Choices:
    """Return what to time of a choice of ``deploy optimize``; what the user gave comes first."""
    return dataclasses.replace(
        choices,
        chosen=choice,
        backends=choices.backends if choices.named else (choice.backend,),
        named=True,
        precisions=choices.precisions or (choice.precision,),
        batches=choices.batches if batches else (choice.batch,),
        threads=threads or choice.threads,
        device=choices.device if choices.device != "cpu" else choice.device,
    )


def _plan(
    wishes: Sequence[tuple[ModelRequest, Choices]], choices: Choices, store: Store, scratch: Path, progress: Progress
) -> tuple[list[PlannedCell], list[SkippedCell]]:
    """Plan all cells: those whose parity check passed, and those that are skipped."""
    ready: list[PlannedCell] = []
    skipped: list[SkippedCell] = []
    planned: list[PlannedCell] = []
    for request, wish in wishes:
        plans, impossible = plan_model(request, wish, store, scratch, progress)
        planned += plans
        ready += [plan for plan in plans if plan.passed]
        skipped += impossible + [_refused(plan, choices.kind) for plan in plans if not plan.passed]
    check_sizes(choices.sizes, planned)
    return ready, skipped


def _refused(plan: PlannedCell, kind: str | None) -> SkippedCell:
    cell = plan.cell
    return SkippedCell(
        model=cell.model,
        backend=cell.backend,
        precision=cell.precision,
        batch=cell.batch,
        reason=plan.refusal,
        machine=kind,
    )


def _start_or_resume(plan: PlannedCell, store: Store, context: Mapping[str, Any], *, again: bool) -> CellRecord:
    path = record_path(store.root, plan.cell)
    if path.is_file() and not again:
        try:
            return load(path)
        except DeployError:
            pass
    about = {**plan.about, **work_of(plan, store), **context, "created": now()}
    return CellRecord(cell=plan.cell, evidence=plan.evidence or {}, about=about)


def _note_earlier(records: Iterable[CellRecord], repetitions: int, progress: Progress) -> None:
    """Say which measurements are those of an earlier run."""
    earlier = [record for record in records if len(record.repetitions) >= repetitions]
    if earlier:
        since = min(str(record.about["created"]) for record in earlier)
        count = f"{len(earlier)} configuration{'s' * (len(earlier) > 1)}"
        progress.note(f"{count} measured by an earlier run (since {since[:16]}); --again measures anew")


def _floors(records: Mapping[str, CellRecord], store: Store, progress: Progress) -> dict[str, Floor]:
    used = sorted({record.cell.threads for record in records.values()})
    limits = {threads: machine_limits(threads, store, progress) for threads in used}
    found = {key: floor_of(record, limits[record.cell.threads]) for key, record in records.items()}
    return {key: item for key, item in found.items() if item is not None}


def _measure(
    plans: Sequence[PlannedCell],
    records: dict[str, CellRecord],
    repetitions: int,
    budget: Budget,
    seed: int,
    store: Store,
    kept: Store | None,
    progress: Progress,
    notify: Callable[[], None],
) -> None:
    """Run the missing repetitions, process by process; each is on disk in ``kept`` before the next starts."""
    by_key = {plan.cell.key: plan for plan in plans}
    missing = [
        (number, key)
        for number, key in interleaved(sorted(by_key), repetitions, seed)
        if all(item.number != number for item in records[key].repetitions)
    ]
    notify()
    with progress.stage("timing"):
        for done, (number, key) in enumerate(missing):
            plan = by_key[key]
            progress.advance(done, len(missing), f"{plan.cell}, process {number + 1} of {repetitions}")
            if records[key].failure:  # a cell that failed once is not tried again
                continue
            records[key] = records[key].adding(repeat(plan, number, budget, seed, store))
            if kept is not None:
                save(kept.root, records[key])
            notify()
        progress.advance(len(missing), len(missing), "timing")


def interleaved(keys: Sequence[str], repetitions: int, seed: int) -> Iterator[tuple[int, str]]:
    """Yield every key once per repetition, in a new random order each time, so that drift affects all keys alike."""
    order = random.Random(seed)
    for number in range(repetitions):
        yield from ((number, key) for key in order.sample(list(keys), len(keys)))
