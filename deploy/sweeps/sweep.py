"""``deploy sweep``: a matrix of models, precisions, backends, batches and machines, made and measured."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.bench.cells import choose_backends
from deploy.bench.records import CellRecord, SkippedCell, load, save_absent
from deploy.bench.rows import LatencyRow, rows_of
from deploy.bench.statistics import plain_interval
from deploy.core import registry
from deploy.core.backend import backends
from deploy.core.errors import MissingPackageError
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.sweeps.drive import Drive, TaskOutcome, Watch
from deploy.sweeps.files import files_of
from deploy.sweeps.job import do_task
from deploy.sweeps.journal import Journal
from deploy.sweeps.plan import SweepCell, SweepPlan, plan, slots
from deploy.sweeps.spec import Spec, parse
from deploy.sweeps.task import Context, Engine, Task

ENGINES = "deploy.sweeps.engines"
WORKER = "deploy.sweeps.worker:TaskWorker"
PACKAGES = {"ray": ("ray", "deploy-toolkit[ray]")}
"""What an engine needs besides, and how to install it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What came of a cell.

    Attributes:
        row: what was timed; None where nothing was.
        why: of that, or why it was not timed as often as it should be; empty otherwise.
    """

    cell: SweepCell
    row: LatencyRow | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times in nanoseconds."""
        cell = self.cell
        stats = self.row.stats if self.row else None
        median = stats.median if stats else None
        return {
            **{name: getattr(cell, name) for name in ("model", "precision", "backend", "batch", "machine")},
            "state": "timed" if median else "absent",
            "why": self.why or None,
            "median_ns": plain_interval(median),
            "record": None if self.row is None else self.row.record.cell.key,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """What `run_sweep` did.

    Attributes:
        outcomes: of every task, in the order in which they ended.
        found: what came of every cell that was asked for.
        seconds: wall time.
    """

    outcomes: tuple[TaskOutcome, ...]
    found: tuple[Found, ...]
    seconds: float

    @property
    def work_seconds(self) -> float:
        """That tasks took, summed over nodes."""
        return sum(item.seconds for item in self.outcomes)

    @property
    def exit_code(self) -> int:
        """0 if all was done; 3 if a check did not pass; 1 if something else failed; 4 if parity could not be told."""
        failed = [int(item.result.get("exit_code", 1)) for item in self.outcomes if item.state == "failed"]
        if failed:
            return 3 if 3 in failed else 1
        if any(item.result.get("verdict") == "inconclusive" for item in self.outcomes):
            return 4
        return 0 if any(item.row for item in self.found) else 4

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tasks": [item.to_dict() for item in self.outcomes],
            "cells": [item.to_dict() for item in self.found],
            "work_seconds": round(self.work_seconds, 3),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What a sweep would do.

    Attributes:
        states: of tasks by name: ``kept`` where an earlier sweep did it, else ``to do``.
        seconds: what each of the others may take; None where no record tells.
    """

    plan: SweepPlan
    states: Mapping[str, str]
    seconds: Mapping[str, float | None]

    @property
    def known_seconds(self) -> float:
        """The sum of those that are known."""
        return sum(value for value in self.seconds.values() if value is not None)

    @property
    def unknown(self) -> int:
        """Tasks of which nothing is known."""
        return sum(value is None for value in self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tasks": [
                {"task": task.name, "kind": task.kind, "model": task.group, "machine": task.machine,
                 "state": self.states[task.name], "seconds": self.seconds.get(task.name)}
                for task in self.plan.tasks
            ],
            "cells": [
                {name: getattr(cell, name) for name in ("model", "precision", "backend", "batch", "machine")}
                for cell in self.plan.cells
            ],
            "known_seconds": round(self.known_seconds, 1),
            "unknown_tasks": self.unknown,
        }  # fmt: skip


def dry_run(
    spec: Spec, *, again: bool = False, artifacts: Path | None = None, progress: Progress = SILENT
) -> DryRun:  # fmt: skip
    """Tell what `run_sweep` would do, and what it may cost by the records of earlier sweeps; nothing is run.

    Args:
        spec: what was asked for.
        again: do everything again.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: warned of damaged records.

    Raises:
        UsageError: it cannot be.
    """
    store = Store(artifacts or default_root())
    planned = _plan(spec, again)
    journal = Journal(store, progress)
    states: dict[str, str] = {}
    made: dict[str, Mapping[str, str]] = {}
    for task in planned.tasks:
        before = (*task.needs, *task.after)
        known = {path: digest for name in before for path, digest in made.get(name, {}).items()}
        ready = not again and all(name in made for name in before)
        result = journal.find(journal.key(task, known)) if ready else None
        states[task.name] = "kept" if result is not None and journal.tells(task) else "to do"
        if result is not None:  # of a user's code that is exported anew: if it is still what it was
            made[task.name] = result["made"]
    left = [task for task in planned.tasks if states[task.name] == "to do"]
    return DryRun(plan=planned, states=states, seconds={task.name: journal.estimate(task) for task in left})


def run_sweep(
    sweep: Spec | Path,
    *,
    engine: str = "local",
    address: str = "auto",
    jobs: int = 1,
    again: bool = False,
    artifacts: Path | None = None,
    progress: Progress = SILENT,
    watch: Watch = lambda task, state, text: None,
) -> SweepReport:
    """Export, quantize, build, evaluate and time everything of a sweep.

    What earlier sweeps did and is still as they left it is not done again. A task that fails ends what needs it, and
    nothing else.

    Args:
        sweep: what was asked for, or the YAML file that says it (see ``docs/sweeps.md``).
        engine: a file of `deploy.sweeps.engines`: ``local`` or ``ray``.
        address: of the cluster.
        jobs: tasks other than timings that may run at a time on this machine.
        again: do everything again.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: warned of damaged records.
        watch: told of every task.

    Raises:
        UsageError: it cannot be.
        MissingPackageError: the engine is not installed.
        StorageError: the disk refused.
    """
    began = time.perf_counter()
    spec = read_sweep(sweep) if isinstance(sweep, Path) else sweep
    store = Store(artifacts or default_root())
    planned = _plan(spec, again)
    journal = Journal(store, progress)
    tasks = [_expected(task, journal) for task in planned.tasks]
    context = Context(
        root=store.root,
        worker=WORKER,
        job=do_task,
        files=lambda task: files_of(task, store),
        machines={machine.name: machine.resource or machine.name for machine in spec.machines},
        jobs=slots(jobs),
        address=address,
    )
    running = _open(engine, context)
    try:
        outcomes = Drive(tasks, running, journal, again=again, watch=watch).run()
    finally:
        running.close()
    return SweepReport(
        outcomes=tuple(outcomes.values()),
        found=tuple(_found(planned.cells, outcomes, spec.baseline, store)),
        seconds=time.perf_counter() - began,
    )


def count_tasks(spec: Spec) -> int:
    """How many tasks a sweep has.

    Raises:
        UsageError: it cannot be.
    """
    return len(_plan(spec, False).tasks)


def _plan(spec: Spec, again: bool) -> SweepPlan:
    return plan(spec, choose_backends(spec.backends), again=again)


def _expected(task: Task, journal: Journal) -> Task:
    return dataclasses.replace(task, seconds=journal.estimate(task))


def _open(name: str, context: Context) -> Engine:
    try:
        module = registry.load(ENGINES, name, "engine")
    except ModuleNotFoundError as exc:
        package, install = PACKAGES.get(name, (exc.name or name, exc.name or name))
        raise MissingPackageError(package, f"the engine {name}", install) from exc
    engine: Engine = module.open_engine(context)
    return engine


def _found(cells: Sequence[SweepCell], outcomes: Mapping[str, TaskOutcome], baseline: str, store: Store) -> list[Found]:
    """What came of every cell; what was not timed is kept as such, for the report."""
    records: dict[tuple[Any, ...], CellRecord] = {}
    whys: dict[tuple[Any, ...], str] = {}
    for outcome in outcomes.values():
        for backend, precision, batch, path in outcome.result.get("records", ()):
            records[outcome.task.name, backend, precision, batch] = load(store.root / path)
        for path in outcome.result.get("kept", ()):
            record = load(store.root / path)
            key = (outcome.task.name, record.cell.backend, record.cell.precision, record.cell.batch)
            records[key] = record
            whys[key] = f"{len(record.timed)} of {outcome.task.work['repetitions']} processes: {outcome.why}"
        for item in outcome.result.get("absent", ()):
            whys[outcome.task.name, item["backend"], item["precision"], item["batch"]] = item["why"]
    rows = dict(zip(records, rows_of(list(records.values()), baseline, {}), strict=True))
    found = []
    for cell in cells:
        key = (cell.bench, cell.backend, cell.precision, cell.batch)
        row = rows.get(key)
        why = row.record.failure or whys.get(key, "") if row else _why(cell, outcomes, whys.get(key, ""))
        if row is None and key not in whys:
            save_absent(store.root, _absent(cell, why))
        found.append(Found(cell=cell, row=row if row and not row.record.failure else None, why=why))
    return found


def _why(cell: SweepCell, outcomes: Mapping[str, TaskOutcome], told: str) -> str:
    """Why there is no number: what should have made its file failed, or the timing did."""
    maker = outcomes.get(cell.maker or "")
    if maker is not None and not maker.well:
        return f"{maker.task.name}: {maker.why}"
    return told or outcomes[cell.bench].why or "it was not timed."


def _absent(cell: SweepCell, why: str) -> SkippedCell:
    return SkippedCell(
        model=cell.model,
        backend=cell.backend,
        precision=cell.precision,
        batch=cell.batch,
        why=why,
        machine=cell.machine,
    )


def parse_sweep(plain: Mapping[str, Any]) -> Spec:
    """Read a sweep from plain values, as a command line gives them.

    Raises:
        UsageError: it is no sweep; with the place.
    """
    return parse(plain, backends())


def read_sweep(path: Path) -> Spec:
    """Read a sweep from a YAML file.

    Raises:
        UsageError: it is no sweep; with the line.
        MissingPackageError: PyYAML is not installed.
    """
    try:
        from deploy.sweeps.document import read
    except ModuleNotFoundError as exc:
        raise MissingPackageError("pyyaml", "a sweep in a file", "deploy-toolkit[sweep]") from exc
    return read(path, backends())
