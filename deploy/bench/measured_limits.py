"""Measuring what the machine can do at best, with the processes and the clock that time everything else."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench.cells import PlannedCell, choose_backends
from deploy.bench.limits import Floor, MachineLimits, Work, floor
from deploy.bench.process import BenchProcess
from deploy.bench.records import CellRecord
from deploy.core.backend import ONNX, RunSettings, find_backend
from deploy.core.environment import machine, versions
from deploy.core.errors import BackendError
from deploy.core.progress import Progress
from deploy.core.store import LIMITS, Store, write_file
from deploy.support import peak_graphs
from deploy.support.onnx_costs import costs

SECONDS = 0.3
BANDWIDTH = "deploy.bench.bandwidth"
SIZES = tuple(2**power for power in (16, 18, 20, 22, 24, 26, 28))
"""Bytes that are read again and again: 64 KiB to 256 MiB."""


def measured_limits(threads: int, store: Store, progress: Progress, *, again: bool = False) -> MachineLimits:
    """The limits of this machine with so many threads; those of an earlier run where nothing has changed.

    Raises:
        BackendError: nothing could be measured.
    """
    key = {"machine": machine(), "versions": versions(), "threads": threads}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = store.root / LIMITS / f"{digest}.json"
    if path.is_file() and not again:
        try:
            return MachineLimits.from_dict(json.loads(path.read_text(encoding="utf-8"))["limits"])
        except (ValueError, KeyError, TypeError):
            progress.note(f"{path} is damaged: measuring again what the machine can do")
    with progress.stage("measuring what the machine can do"):
        limits = _measure(threads)
    write_file(path, (json.dumps({**key, "limits": limits.to_dict()}, indent=1) + "\n").encode())
    return limits


def _measure(threads: int) -> MachineLimits:
    operations: dict[str, float] = {}
    by: dict[str, str] = {}
    engines = [find_backend(name) for name in choose_backends(()) if ONNX in find_backend(name).formats]
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "int8"):
            for kind, shape in peak_graphs.INPUTS.items():
                path = Path(folder) / f"{kind}.{precision}.onnx"
                peak_graphs.write(path, kind, precision)
                feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
                for engine in engines:
                    reached = peak_graphs.OPERATIONS[kind] / _seconds(
                        engine.runner, threads, path, feeds, engine.options(RunSettings(threads=threads))
                    )
                    if reached > operations.get(precision, 0.0):
                        operations[precision] = reached
                        by[precision] = f"{kind} on {engine.name}"
    bandwidth = {
        size: size / _seconds(BANDWIDTH, threads, None, {}, {"threads": threads, "bytes": size}) for size in SIZES
    }
    return MachineLimits(threads=threads, operations=operations, bandwidth=bandwidth, by=by)


def _seconds(
    runner: str, threads: int, path: Path | None, feeds: dict[str, np.ndarray], options: dict[str, Any]
) -> float:
    """A short call, not a typical one: the tenth percentile."""
    with BenchProcess(runner, threads) as process:
        process.open(feeds, path=path, model=None, options=options)
        process.warm(1.0)
        _, samples = process.time(SECONDS)
    if not len(samples):
        raise BackendError(f"{runner} gave no time.")
    return float(np.quantile(samples, 0.1)) / 1e9


def stored_limits(root: Path) -> list[tuple[Mapping[str, Any], MachineLimits]]:
    """All limits that were measured, with the machine each is of, the newest first; what is damaged is left out."""
    found = []
    for path in sorted((root / LIMITS).glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found.append((document["machine"], MachineLimits.from_dict(document["limits"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def work_of(plan: PlannedCell, store: Store) -> dict[str, Any]:
    """What a call of a plan must do, for its record: from its file; where PyTorch runs it, from the float export.

    Returns:
        ``work`` (see `deploy.bench.limits.Work`) and ``parameters``; nothing where there is no file to tell.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = plan.path if plan.path is None or plan.path.suffix == ".onnx" else None
    path = path or _float_file(plan, store)
    if path is None:
        return {}
    found = costs(path, plan.cell.sizes)
    work = Work(operations=found.by_precision, bytes=found.least_bytes, unknown=found.unknown)
    return {"work": work.to_dict(), "parameters": found.parameters}


def _float_file(plan: PlannedCell, store: Store) -> Path | None:
    if plan.path is not None:  # an engine's arithmetic is not that of the float export
        return None
    for item in store.artifacts(plan.cell.slug):
        manifest = item.manifest
        if (manifest.format, manifest.precision, manifest.target) == ("onnx", "fp32", None):
            return item.path
    return None


def floor_of(record: CellRecord, limits: MachineLimits) -> Floor | None:
    """The floor of a record; None where its work is not known."""
    work = record.about.get("work")
    return None if work is None else floor(Work(**work), limits)
