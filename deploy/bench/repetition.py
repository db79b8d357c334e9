"""One repetition of one cell: a fresh process, opened, warmed up, timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.bench.cells import LATENCY, PlannedCell
from deploy.bench.process import BenchProcess
from deploy.bench.records import Repetition, record_path
from deploy.core.errors import DeployError
from deploy.core.store import Store
from deploy.parity.probes import probes_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How long one process may take, in seconds.

    Attributes:
        time_s: of timed calls.
        warm_s: of the warm-up, at the most.
        patience_s: until a process that does not answer is taken for hung.
    """

    time_s: float = 1.0
    warm_s: float = 5.0
    patience_s: float = 120.0


def repeat(plan: PlannedCell, number: int, budget: Budget, seed: int, store: Store) -> Repetition:
    """Time a plan once; a process that fails, dies or hangs is a repetition with its reason."""
    cell = plan.cell
    feeds = probes_at(plan.inputs, cell.sizes, seed=seed)[0].feeds
    details: dict[str, Any] = {}
    try:
        with BenchProcess(plan.backend.runner, cell.threads, patience_s=budget.patience_s) as process:
            details |= process.open(feeds, path=plan.path, model=plan.model, options=plan.options)
            details["copies"] = process.copies(feeds)
            details["warmth"] = process.warm(budget.warm_s)
            if cell.scenario == LATENCY:
                told, samples = process.time(budget.time_s)
            else:
                told, samples = process.scenario(
                    cell.scenario, {**cell.options, "seed": seed, **_log(plan, number, store)}
                )
        details |= told
    except DeployError as exc:
        why = exc.message + (f" ({exc.hint})" if exc.hint else "")
        return Repetition(number=number, samples=np.array([], np.int64), details=details, failure=why)
    return Repetition(number=number, samples=samples, thinned=details.pop("thinned", 1), details=details)


def _log(plan: PlannedCell, number: int, store: Store) -> dict[str, str]:
    """Where a scenario that keeps a log of its own keeps it: beside the record."""
    if plan.cell.scenario != "loadgen":
        return {}
    record = record_path(store.root, plan.cell)
    return {"log_dir": str((record.parent / f"{record.stem}.{number}").resolve())}


def flags_of(repetition: Repetition) -> dict[str, str]:
    """What may have moved its times: in words, by kind."""
    details = repetition.details
    found = dict(details.get("interference", {}).get("flags", {}))
    if not details.get("warmth", {}).get("settled", True):
        found["warmth"] = "the warm-up did not settle"
    return found
