"""``deploy bench --explain``: where the time of a cell goes, and why eight bits are not faster where they are not."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench.cells import PlannedCell, choose_backends
from deploy.bench.layers import LayerTime, Profile, slower
from deploy.bench.plan import Choices, plan_model
from deploy.bench.process import BenchProcess
from deploy.bench.records import save_profile
from deploy.bench.subject import INT8
from deploy.core.backend import find_backend
from deploy.core.environment import usable_cores
from deploy.core.errors import BackendError, UsageError
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.models.request import ModelRequest
from deploy.parity.probes import probes_at

CALLS = 50
WALL_S = 0.5
WARM_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """One cell, taken apart.

    Attributes:
        profile: of it.
        before: in eight bits, the profile of the float file on the same backend.
    """

    plan: PlannedCell
    profile: Profile
    before: Profile | None = None

    @property
    def in_float(self) -> list[LayerTime]:
        """In eight bits: layers that compute in float nevertheless, the longest first."""
        if self.plan.cell.precision != INT8:
            return []
        return [item for item in self.profile.layers if item.kind == "compute" and item.arithmetic == "float"]

    @property
    def unfused(self) -> list[LayerTime]:
        """Quantizing and dequantizing that became operators of their own."""
        return [item for item in self.profile.layers if item.kind == "qdq"]

    @property
    def slower(self) -> list[tuple[LayerTime, float]]:
        """In eight bits: layers that take longer than in float, with what they took there in nanoseconds."""
        return [] if self.before is None else slower(self.before, self.profile)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **dataclasses.asdict(self.plan.cell),
            **self.profile.to_dict(),
            "in_float": [item.layer for item in self.in_float],
            "unfused": [item.layer for item in self.unfused],
            "float_wall_ns": None if self.before is None else self.before.wall_ns,
            "slower": [{"layer": item.layer, "ns": item.ns, "float_ns": was} for item, was in self.slower],
        }


def explain(
    model: str | ModelRequest,
    *,
    backends: Sequence[str] = (),
    precision: str = "fp32",
    batch: int = 1,
    threads: int | None = None,
    calib: str | None = None,
    seed: int = 0,
    artifacts: Path | None = None,
    progress: Progress = SILENT,
) -> list[Explanation]:
    """Profile a model on backends.

    Args:
        model: a name or a file of the store.
        backends: as users name them; none takes onnxruntime and openvino where installed.
        precision: ``fp32``, ``fp16`` or ``int8``; the last is set beside ``fp32``.
        batch: its size.
        threads: within an operator; None for all cores.
        calib: data to quantize with where an INT8 file is missing.
        seed: of inputs.
        artifacts: the artifacts directory.
        progress: told what happens.

    Raises:
        BackendError: a cell cannot be run.
        UsageError: a backend has no profiler.
    """
    store = Store(artifacts or default_root())
    choices = Choices(
        backends=tuple(backends) or tuple(name for name in choose_backends(()) if find_backend(name).runs_files),
        precisions=(precision,) if precision != INT8 else (INT8, "fp32"),
        batches=(batch,),
        threads=threads or usable_cores(),
        calib=calib,
        seed=seed,
    )
    for name in choose_backends(choices.backends):
        if not find_backend(name).profiler:
            raise UsageError(f"the backend {name} has no profiler that tells layers.")
    request = ModelRequest(name=model) if isinstance(model, str) else model
    with tempfile.TemporaryDirectory(prefix="deploy-bench-") as scratch:
        plans, absent = plan_model(request, choices, store, Path(scratch), progress)
        found = {}
        for plan in plans:
            with progress.stage(f"{plan.cell}: profiling"):
                found[plan.cell.backend, plan.cell.precision] = Explanation(plan=plan, profile=_profile(plan, seed))
    floats = {backend: item.profile for (backend, kind), item in found.items() if kind == "fp32"}
    told = [
        dataclasses.replace(item, before=floats.get(backend) if kind == INT8 else None)
        for (backend, kind), item in found.items()
        if kind == precision
    ]
    if not told:
        raise BackendError(f"{request.name}: nothing to explain: {absent[0].why if absent else 'no cell'}")
    for item in told:
        save_profile(store.root, item.plan.cell, item.to_dict())
    return told


def _profile(plan: PlannedCell, seed: int) -> Profile:
    """Without a profiler for the time in all, then with it, in a process of its own each."""
    feeds = probes_at(plan.inputs, plan.cell.sizes, seed=seed)[0].feeds
    with BenchProcess(plan.backend.runner, plan.cell.threads) as process:
        process.open(feeds, path=plan.path, model=plan.model, options=plan.options)
        process.warm(WARM_S)
        wall = float(np.median(process.time(WALL_S)[1]))
    with BenchProcess(plan.backend.runner, plan.cell.threads) as process:
        nodes = process.profile(feeds, path=plan.path, model=plan.model, options=plan.options, calls=CALLS)
    return Profile.of(nodes, wall)
