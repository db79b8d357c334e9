"""``deploy bench --scenario throughput``: double the batch until throughput stops growing."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deploy.bench.measure import BASELINE, REPETITIONS, BenchmarkReport, Listener, measure_speed
from deploy.bench.plan import Wanted
from deploy.bench.repetition import Budget
from deploy.bench.rows import LatencyRow
from deploy.core.brief import brief
from deploy.core.progress import SILENT, Progress
from deploy.models.given import as_requests

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike

GAIN = 0.05
"""Doubling the batch must raise throughput by at least this share to go on."""

MAX_BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturation:
    """Where the batches of one model, backend and precision ended.

    Attributes:
        batch: smallest batch whose throughput is within `GAIN` of the highest.
        throughput: samples per second at that batch.
        largest: largest batch that ran.
        reason: reason for stopping.
    """

    model: str
    backend: str
    precision: str
    batch: int
    throughput: float
    largest: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SaturationReport:
    """Result of `saturate`: all rows, and where each model, backend and precision ended."""

    report: BenchmarkReport
    ends: tuple[Saturation, ...]

    def __repr__(self) -> str:
        return brief(self, *(f"{item.model} {item.backend} from batch {item.batch}" for item in self.ends))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.report.to_dict(), "saturation": [dataclasses.asdict(item) for item in self.ends]}


Key = tuple[str, str, str]
"""Model, backend and precision."""


def saturate(
    models: Sequence[ModelLike] = (),
    *,
    inputs: ExampleInputs | None = None,
    max_batch: int = MAX_BATCH,
    backends: Sequence[str] = (),
    precisions: Sequence[Literal["fp32", "fp16", "bf16", "int8"]] | None = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    graph: bool = False,
    sizes: Mapping[str, int] | None = None,
    calib: str | None = None,
    repetitions: int = REPETITIONS,
    budget: Budget | None = None,
    seed: int = 0,
    again: bool = False,
    baseline: str = BASELINE,
    limits: bool = False,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
    listener: Listener = lambda rows: None,
) -> SaturationReport:
    """Time batches of 1, 2, 4 ... until throughput is saturated, a batch is refused, or memory runs out.

    Args:
        models: model names, ONNX files, engines with a manifest, requests, or modules in memory; none takes every
            exported model in the artifacts directory.
        inputs: of the modules in memory, see `deploy.ExampleInputs`; `deploy.module_request` gives each its own.
        max_batch: largest batch size.
        backends: names of backends.
        precisions: ``fp32``, ``fp16``, ``bf16``, ``int8``.
        threads: threads within an operator.
        device: ``cpu`` or ``cuda``.
        graph: replay CUDA graphs.
        sizes: sizes of symbolic dimensions other than the batch.
        calib: calibration data for a missing INT8 file.
        repetitions: worker processes per cell.
        budget: time limits of each process.
        seed: seed of inputs, untrained weights and the order of processes.
        again: repeat measurements that are already recorded.
        baseline: the backend, in float32, that speedups are relative to.
        limits: measure the peak rates of this machine once, and the floor of each cell.
        artifacts: artifacts directory.
        progress: receives progress messages.
        listener: called with the rows as they come.

    Raises:
        DeployError: as for `deploy.bench.measure.measure_speed`.
    """
    began = time.perf_counter()
    measure = functools.partial(
        measure_speed,
        as_requests(models, inputs),
        backends=backends,
        precisions=precisions,
        threads=threads,
        device=device,
        graph=graph,
        sizes=sizes,
        calib=calib,
        repetitions=repetitions,
        budget=budget,
        seed=seed,
        again=again,
        baseline=baseline,
        limits=limits,
        artifacts=artifacts,
        progress=progress,
        listener=listener,
    )
    rows: dict[Key, list[LatencyRow]] = {}
    ended: dict[Key, str] = {}
    reports: list[BenchmarkReport] = []
    batch = 1
    while batch <= max_batch and (not reports or set(rows) - set(ended)):
        tried = set(rows) - set(ended)
        report = measure(batches=(batch,), wanted=_only(tried if reports else None))
        reports.append(report)
        for row in report.rows:
            _add(row, rows, ended)
        reasons = {(item.backend, item.precision): item.reason for item in reversed(report.skipped)}
        for key in tried - {_key(row) for row in report.rows}:
            ended[key] = reasons.get(key[1:], "refused")
        batch *= 2
    ends = [_end(key, found, ended.get(key, f"reached the maximum batch {max_batch}")) for key, found in rows.items()]
    whole = dataclasses.replace(
        reports[0],
        rows=tuple(row for found in rows.values() for row in found),
        seconds=time.perf_counter() - began,
    )
    return SaturationReport(report=whole, ends=tuple(item for item in ends if item is not None))


def _key(row: LatencyRow) -> Key:
    cell = row.record.cell
    return cell.model, cell.backend, cell.precision


def _only(keys: set[Key] | None) -> Wanted:
    """Select the combinations that have not ended; None selects all. Models may be given by their short name."""

    def wanted(model: str, backend: str, precision: str) -> bool:
        return keys is None or any(
            (backend, precision) == key[1:] and (model == key[0] or key[0].endswith(f"/{model}")) for key in keys
        )

    return wanted


def _add(row: LatencyRow, rows: dict[Key, list[LatencyRow]], ended: dict[Key, str]) -> None:
    key = _key(row)
    before = rows.setdefault(key, [])
    highest = max((item.throughput or 0.0 for item in before), default=0.0)
    before.append(row)
    if row.record.failure:
        ended[key] = row.record.failure
    elif (row.throughput or 0.0) < highest * (1 + GAIN):
        ended[key] = "saturated"


def _end(key: Key, found: Sequence[LatencyRow], why: str) -> Saturation | None:
    ran: Mapping[int, float] = {row.record.cell.batch: row.throughput for row in found if row.throughput}
    if not ran:
        return None
    highest = max(ran.values())
    batch = min(size for size, value in ran.items() if value * (1 + GAIN) >= highest)
    model, backend, precision = key
    return Saturation(
        model=model,
        backend=backend,
        precision=precision,
        batch=batch,
        throughput=ran[batch],
        largest=max(ran),
        reason=why,
    )
