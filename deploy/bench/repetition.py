"""One repetition of one cell: a fresh process that opens it, warms it up and times it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.bench.cells import LATENCY, PlannedCell
from deploy.bench.process import BenchProcess
from deploy.bench.records import Repetition, record_path
from deploy.core.errors import DeployError
from deploy.core.store import Store, make_folder
from deploy.parity.probes import probes_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Time limits of one process, in seconds.

    Attributes:
        time_s: duration of the timed calls.
        warm_s: maximum duration of the warm-up.
        patience_s: a process that does not respond for so long is killed.
    """

    time_s: float = 1.0
    warm_s: float = 5.0
    patience_s: float = 120.0


def repeat(plan: PlannedCell, number: int, budget: Budget, seed: int, store: Store) -> Repetition:
    """Time a cell once; a process that fails, dies or hangs gives a repetition with the reason and no samples."""
    cell = plan.cell
    feeds = probes_at(plan.inputs, cell.sizes, seed=seed)[0].feeds
    details: dict[str, Any] = {}
    try:
        with BenchProcess(plan.backend.runner, cell.threads, patience_s=budget.patience_s) as process:
            details |= process.open(feeds, path=plan.path, model=plan.model, options=plan.options)
            details["copies"] = process.copies(feeds)
            details["warmth"] = process.warm(budget.warm_s)
            if cell.scenario == LATENCY:
                timing, samples = process.time(budget.time_s)
            else:
                options = {**cell.options, "seed": seed, **_log_folder(plan, number, store)}
                timing, samples = process.scenario(cell.scenario, options)
        details |= timing
    except DeployError as exc:
        why = exc.message + (f" ({exc.hint})" if exc.hint else "")
        return Repetition(number=number, samples=np.array([], np.int64), details=details, failure=why)
    return Repetition(number=number, samples=samples, thinned=details.pop("thinned", 1), details=details)


def _log_folder(plan: PlannedCell, number: int, store: Store) -> dict[str, str]:
    """Return the option with the folder, beside the record, of a scenario that writes its own log."""
    if plan.cell.scenario != "loadgen":
        return {}
    record = record_path(store.root, plan.cell)
    folder = record.parent / f"{record.stem}.{number}"
    for item in (record.parent.parent, record.parent, folder):
        make_folder(item)
    shutil.rmtree(folder)  # the load generator would write to the files of an earlier log, even where they are links
    return {"log_dir": str(folder.resolve())}


def flags_of(repetition: Repetition) -> dict[str, str]:
    """Return what may have disturbed a repetition: a sentence for each kind of interference."""
    details = repetition.details
    found = dict(details.get("interference", {}).get("flags", {}))
    if not details.get("warmth", {}).get("settled", True):
        found["warmth"] = "the warm-up did not settle"
    if len(nodes := details.get("nodes") or {}) > 1:
        found["nodes"] = f"nodes ran in several places: {', '.join(f'{n} on {name}' for name, n in nodes.items())}"
    return found
