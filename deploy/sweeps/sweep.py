"""``deploy sweep``: export, quantize, build, evaluate and time a matrix of models and configurations."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.bench.cells import choose_backends
from deploy.bench.records import CellRecord, SkippedCell, load, save_skipped
from deploy.bench.rows import LatencyRow, rows_of
from deploy.bench.statistics import plain_interval
from deploy.core.environment import usable_cores
from deploy.core.errors import UsageError
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.sweeps.drive import Drive, TaskOutcome, Watch
from deploy.sweeps.executor import ExecutorContext, start_executor
from deploy.sweeps.job import do_task
from deploy.sweeps.journal import Journal
from deploy.sweeps.plan import SweepCell, SweepPlan, plan
from deploy.sweeps.spec import SweepSpec, read_spec
from deploy.sweeps.task import files_of

WORKER = "deploy.sweeps.job:TaskWorker"


def run_sweep(
    sweep: SweepSpec | Path,
    *,
    executor: str = "local",
    address: str = "auto",
    jobs: int = 1,
    again: bool = False,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
    watch: Watch = lambda task, state, text: None,
) -> SweepReport:
    """Export, quantize, build, evaluate and time everything in a sweep.

    Results of earlier sweeps are reused if their inputs and files have not changed. If a task fails, the tasks that
    need it are skipped and the others continue.

    Args:
        sweep: the sweep, or its YAML file (see ``docs/sweeps.md``).
        executor: ``local``, ``ray``, or a plug-in of `deploy.sweeps.executors`.
        address: address of the Ray cluster.
        jobs: maximum number of concurrent tasks on this machine; a benchmark always runs alone.
        again: repeat the work of earlier sweeps.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages.
        watch: receives task events.

    Raises:
        UsageError: the sweep is invalid, or the executor cannot run it.
        MissingPackageError: the executor or a backend is not installed.
        StorageError: a file cannot be written.
    """
    began = time.perf_counter()
    spec = read_spec(sweep) if isinstance(sweep, Path) else sweep
    if jobs > usable_cores():
        raise UsageError(f"--jobs {jobs}: this machine has {usable_cores()} cores.")
    store = Store.at(artifacts)
    planned = _plan(spec, again)
    journal = Journal(store, progress)
    tasks = [dataclasses.replace(task, seconds=journal.estimate(task)) for task in planned.tasks]
    context = ExecutorContext(
        root=store.root,
        worker=WORKER,
        job=do_task,
        files=lambda task: files_of(task, store),
        machines={machine.name: machine.resource or machine.name for machine in spec.machines},
        jobs=jobs,
        address=address,
    )
    running = start_executor(executor, context)
    try:
        outcomes = Drive(tasks, running, journal, again=again, watch=watch).run()
    finally:
        running.close()
    return SweepReport(
        outcomes=tuple(outcomes.values()),
        cells=tuple(_cell_results(planned.cells, outcomes, spec.baseline, store)),
        seconds=time.perf_counter() - began,
    )


def dry_run(
    spec: SweepSpec, *, again: bool = False, artifacts: str | Path | None = None, progress: Progress = SILENT
) -> DryRun:  # fmt: skip
    """Return what `run_sweep` would do, with durations estimated from earlier sweeps; run nothing.

    Args:
        spec: the sweep.
        again: repeat the work of earlier sweeps.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages.

    Raises:
        UsageError: the sweep is invalid.
        MissingPackageError: a backend is not installed.
    """
    store = Store.at(artifacts)
    planned = _plan(spec, again)
    journal = Journal(store, progress)
    states: dict[str, str] = {}
    made: dict[str, Mapping[str, str]] = {}
    for task in planned.tasks:
        before = (*task.needs, *task.after)
        known = {path: digest for name in before for path, digest in made.get(name, {}).items()}
        ready = not again and all(name in made for name in before)
        result = journal.find(journal.key(task, known)) if ready else None
        states[task.name] = "kept" if result is not None and journal.applies_to(task) else "to do"
        if result is not None:  # for user code that will be exported again, assume that it has not changed
            made[task.name] = result["made"]
    left = [task for task in planned.tasks if states[task.name] == "to do"]
    return DryRun(plan=planned, states=states, seconds={task.name: journal.estimate(task) for task in left})


def count_tasks(spec: SweepSpec) -> int:
    """Return the number of tasks of a sweep."""
    return len(_plan(spec, False).tasks)


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """The result of a configuration.

    Attributes:
        row: latencies; None if it was not timed.
        reason: why it was not timed, or why it has fewer repetitions than requested; else empty.
    """

    cell: SweepCell
    row: LatencyRow | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; times in nanoseconds."""
        stats = self.row.stats if self.row else None
        median = stats.median if stats else None
        return {
            **_coordinates(self.cell),
            "state": "timed" if median else "skipped",
            "reason": self.reason or None,
            "median_ns": plain_interval(median),
            "record": None if self.row is None else self.row.record.cell.key,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """Outcome of every task, in the order in which the tasks ended, and result of every configuration."""

    outcomes: tuple[TaskOutcome, ...]
    cells: tuple[CellResult, ...]
    seconds: float

    @property
    def work_seconds(self) -> float:
        """Total duration of the tasks."""
        return sum(item.seconds for item in self.outcomes)

    @property
    def exit_code(self) -> int:
        """3: a check failed. 1: another task failed. 4: a verdict is inconclusive, or nothing was timed. Else 0."""
        failed = [int(item.result.get("exit_code", 1)) for item in self.outcomes if item.state == "failed"]
        if failed:
            return 3 if 3 in failed else 1
        if any(item.result.get("verdict") == "inconclusive" for item in self.outcomes):
            return 4
        return 0 if any(item.row for item in self.cells) else 4

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "tasks": [item.to_dict() for item in self.outcomes],
            "cells": [item.to_dict() for item in self.cells],
            "work_seconds": round(self.work_seconds, 3),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """Result of `dry_run`: the plan, the state of each task and its estimated duration.

    Attributes:
        states: ``kept`` if an earlier sweep recorded the task, else ``to do``.
        seconds: for each task that is to do; None if unknown.
    """

    plan: SweepPlan
    states: Mapping[str, str]
    seconds: Mapping[str, float | None]

    @property
    def known_seconds(self) -> float:
        """Sum of the known durations."""
        return sum(value for value in self.seconds.values() if value is not None)

    @property
    def unknown(self) -> int:
        """Number of tasks whose duration is unknown."""
        return sum(value is None for value in self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "tasks": [
                {"task": task.name, "kind": task.kind, "model": task.group, "machine": task.machine,
                 "state": self.states[task.name], "seconds": self.seconds.get(task.name)}
                for task in self.plan.tasks
            ],
            "cells": [_coordinates(cell) for cell in self.plan.cells],
            "known_seconds": round(self.known_seconds, 1),
            "unknown_tasks": self.unknown,
        }  # fmt: skip


def _coordinates(cell: SweepCell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in ("model", "precision", "backend", "batch", "machine")}


def _plan(spec: SweepSpec, again: bool) -> SweepPlan:
    return plan(spec, choose_backends(spec.backends), again=again)


def _cell_results(
    cells: Sequence[SweepCell], outcomes: Mapping[str, TaskOutcome], baseline: str, store: Store
) -> list[CellResult]:
    """Return the result of every configuration; record the skipped ones for the report."""
    records: dict[tuple[Any, ...], CellRecord] = {}
    reasons: dict[tuple[Any, ...], str] = {}
    for name, outcome in outcomes.items():
        for backend, precision, batch, path in outcome.result.get("records", ()):
            records[name, backend, precision, batch] = load(store.root / path)
        for path in outcome.result.get("saved", ()):
            record = load(store.root / path)
            key = (name, record.cell.backend, record.cell.precision, record.cell.batch)
            records[key] = record
            reasons[key] = f"{len(record.timed)} of {outcome.task.work['repetitions']} processes: {outcome.reason}"
        for item in outcome.result.get("skipped", ()):
            reasons[name, item["backend"], item["precision"], item["batch"]] = item["reason"]
    rows = dict(zip(records, rows_of(list(records.values()), baseline, {}), strict=True))
    results = []
    for cell in cells:
        key = (cell.bench, cell.backend, cell.precision, cell.batch)
        row, why = rows.get(key), reasons.get(key, "")
        if row is None:
            why = _why_skipped(cell, outcomes, why)
            if key not in reasons:
                save_skipped(store.root, SkippedCell(**_coordinates(cell), reason=why))
        failure = row.record.failure if row else ""
        results.append(CellResult(cell=cell, row=None if failure else row, reason=failure or why))
    return results


def _why_skipped(cell: SweepCell, outcomes: Mapping[str, TaskOutcome], reason: str) -> str:
    """Return why a configuration was not timed: its file could not be made, or the benchmark failed."""
    maker = outcomes.get(cell.maker or "")
    if maker is not None and not maker.succeeded:
        return f"{maker.task.name}: {maker.reason}"
    return reason or outcomes[cell.bench].reason or "not timed."
