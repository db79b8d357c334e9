"""Parity check of what is timed: in a process like those that are timed, at exactly the timed sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

from deploy.backends.torch.reference import PyTorchRunner
from deploy.bench.cells import PlannedCell
from deploy.bench.process import BenchProcess
from deploy.core.model import Model
from deploy.exporting.opened_file import match_inputs
from deploy.parity.compare import CachedRunner, compare
from deploy.parity.probes import Probe, probes_at


class ParityChecker:
    """Checks cells of one model against its float64 outputs, which are computed once."""

    def __init__(self, model: Model, seed: int) -> None:
        self._model, self._seed = model, seed
        self._runners = {name: CachedRunner(PyTorchRunner(model, name)) for name in ("fp64", "fp32", "fp16", "bf16")}
        self._probes: dict[tuple[tuple[str, int], ...], list[Probe]] = {}

    def check(self, plan: PlannedCell) -> PlannedCell:
        """Return the cell with its parity evidence."""
        return dataclasses.replace(plan, evidence=self._evidence(plan))

    def _evidence(self, plan: PlannedCell) -> dict[str, Any]:
        cell = plan.cell
        rename, specs, faults = match_inputs(self._model, plan.inputs)
        by = f"bench, on {cell.backend}, at this size"
        if faults:
            return {"verdict": "fail", "reasons": faults, "by": by}
        probes = self._probes.setdefault(tuple(cell.sizes.items()), probes_at(specs, cell.sizes, seed=self._seed))
        with BenchProcess(plan.backend.runner, cell.threads) as process:
            first = {rename[name]: value for name, value in probes[0].feeds.items()}
            process.open(first, path=plan.path, model=plan.model, options=plan.options)
            report = compare(
                self._runners["fp64"],
                self._runners[cell.precision],
                process,
                probes,
                precision=cell.precision,
                seed=self._seed,
                rename=rename,
            )
        margin = report.to_dict()["margin"]
        return {"verdict": report.verdict, "reasons": list(report.reasons), "margin": margin, "by": by}
