"""``deploy bench --scenario throughput``: larger and larger batches until no more comes of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.bench.measure import BenchmarkReport, measure_speed
from deploy.bench.rows import LatencyRow
from deploy.models.request import ModelRequest

GAIN = 0.05
"""A doubled batch that gives less than this share more samples a second is one too many."""

MOST = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturation:
    """Where the batches of one model, backend and precision ended.

    Attributes:
        batch: the smallest batch whose throughput is within `GAIN` of the best, and its samples a second.
        largest: the largest batch that ran.
        why: what ended them.
    """

    model: str
    backend: str
    precision: str
    batch: int
    throughput: float
    largest: int
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SaturationReport:
    """What `saturate` measured: every row, and where each model ended."""

    report: BenchmarkReport
    ends: tuple[Saturation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.report.to_dict(), "saturation": [dataclasses.asdict(item) for item in self.ends]}


Key = tuple[str, str, str]


def saturate(models: Sequence[str | ModelRequest] = (), *, most: int = MOST, **options: Any) -> SaturationReport:
    """Time batches of 1, 2, 4 … until throughput is saturated, a batch is refused, or memory ends.

    Args:
        models: as in `deploy.bench.measure.measure_speed`.
        most: the largest batch.
        options: as in `deploy.bench.measure.measure_speed`, but for the batches.

    Raises:
        DeployError: as in `deploy.bench.measure.measure_speed`.
    """
    began = time.perf_counter()
    rows: dict[Key, list[LatencyRow]] = {}
    ended: dict[Key, str] = {}
    reports: list[BenchmarkReport] = []
    batch = 1
    while batch <= most and (not reports or set(rows) - set(ended)):
        tried = set(rows) - set(ended)
        report = measure_speed(models, batches=(batch,), wanted=_wanted(tried if reports else None), **options)
        reports.append(report)
        for row in report.rows:
            _take(row, rows, ended)
        for key in tried - {_key(row) for row in report.rows}:
            ended[key] = next(
                (item.why for item in report.absent if (item.backend, item.precision) == key[1:]), "refused"
            )
        batch *= 2
    ends = [_end(key, found, ended.get(key, f"batch {most} is the largest asked for")) for key, found in rows.items()]
    whole = dataclasses.replace(
        reports[0],
        rows=tuple(row for found in rows.values() for row in found),
        absent=reports[0].absent,
        seconds=time.perf_counter() - began,
    )
    return SaturationReport(report=whole, ends=tuple(item for item in ends if item is not None))


def _key(row: LatencyRow) -> Key:
    cell = row.record.cell
    return cell.model, cell.backend, cell.precision


def _wanted(left: set[Key] | None) -> Any:
    """The combinations that are not ended; models may be named in short."""

    def wanted(model: str, backend: str, precision: str) -> bool:
        return left is None or any(
            (backend, precision) == key[1:] and (model == key[0] or key[0].endswith(f"/{model}")) for key in left
        )

    return wanted


def _take(row: LatencyRow, rows: dict[Key, list[LatencyRow]], ended: dict[Key, str]) -> None:
    key = _key(row)
    before = rows.setdefault(key, [])
    best = max((item.throughput or 0.0 for item in before), default=0.0)
    before.append(row)
    if row.record.failure:
        ended[key] = row.record.failure
    elif (row.throughput or 0.0) < best * (1 + GAIN):
        ended[key] = "saturated"


def _end(key: Key, found: Sequence[LatencyRow], why: str) -> Saturation | None:
    ran: Mapping[int, float] = {row.record.cell.batch: row.throughput for row in found if row.throughput}
    if not ran:
        return None
    best = max(ran.values())
    batch = min(size for size, value in ran.items() if value * (1 + GAIN) >= best)
    return Saturation(
        model=key[0],
        backend=key[1],
        precision=key[2],
        batch=batch,
        throughput=ran[batch],
        largest=max(ran),
        why=why,
    )
