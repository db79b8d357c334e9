"""The rows of a report: plain values, each with links to its evidence and the command that repeats it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench.limits import Floor, floor_of
from deploy.bench.records import CellRecord
from deploy.bench.rows import LatencyRow, medians, rows_of
from deploy.bench.statistics import ratio
from deploy.core.artifact import Artifact, manifest_path
from deploy.report import score
from deploy.report.collect import ReportInputs, setting
from deploy.support.provenance import bench_command, newest_export_in, stale_timing

JsonObject = Mapping[str, Any]
"""A row, a machine, a profile or a whole report as plain values."""

MAX_QUANTILES = 100
MAX_TOTAL_QUANTILES = 40_000
"""Order statistics per row, and in a report of many rows."""


def report_rows(inputs: ReportInputs, baseline: str, folder: Path) -> list[dict[str, Any]]:
    """Return one row per record, grouped by model and batch, the fastest first; links are relative to ``folder``."""
    records = [record for _, record in inputs.records]
    floors = {record.cell.key: item for record in records if (item := _floor(record, inputs)) is not None}
    marks, stale = _marks(records), _stale(inputs)
    count = max(10, min(MAX_QUANTILES, MAX_TOTAL_QUANTILES // max(len(records), 1)))
    rows = []
    for (path, record), row in zip(inputs.records, rows_of(records, baseline, floors), strict=True):
        about = record.about
        machine = about.get("machine") or record.cell.machine
        rows.append(
            {
                **{name: value for name, value in row.to_dict().items() if name not in ("scenario_details", "top1")},
                "medians_ns": list(medians(record).values()),
                "quantiles_ns": _quantiles(row, count),
                "mark": marks.get(record.cell.key),
                "accuracy": _accuracy(record, inputs),
                "parameters": about.get("parameters"),
                "machine": {name: value for name, value in machine.items() if value is not None},
                "conditions": about.get("conditions"),
                "versions": about.get("versions", {}),
                "work": about.get("work"),
                "created": about.get("created"),
                "command": bench_command(asdict(record.cell), record.about),
                "stale": stale.get(path),
                "links": {
                    name: Path(os.path.relpath(item, folder)).as_posix() for name, item in _links(path, record, inputs)
                },
            }
        )

    def order(row: JsonObject) -> tuple[str, int, float]:  # rows without a latency come last in their group
        return row["slug"], row["batch"], row["latency"]["median_ns"]["value"] if row["latency"] else math.inf

    return sorted(rows, key=order)


def same_cell(profile: JsonObject, row: JsonObject) -> bool:
    """Return whether a profile is of the configuration of a row."""
    fields = ("slug", "backend", "precision", "digest", "batch", "threads", "device")
    return all(profile[name] == row[name] for name in fields)


def _stale(inputs: ReportInputs) -> dict[Path, str]:
    """Return, by record, with which other weights it was measured than those of the export beside it."""
    exports = {path.parent.parent: newest_export_in(path.parent.parent) for path, _ in inputs.records}
    found: dict[Path, str] = {}
    for path, record in inputs.records:
        stale = stale_timing(path, asdict(record.cell), record.about, exports[path.parent.parent])
        found |= {path: stale.reason} if stale else {}
    return found


def _floor(record: CellRecord, inputs: ReportInputs) -> Floor | None:
    """Return the lowest possible latency, from the limits of the same machine with the same number of threads."""
    cell = record.cell
    machine_of_record = {name: value for name, value in cell.machine.items() if name != "kind"}
    for machine, limits in inputs.limits:
        if limits.threads == cell.threads and machine_of_record.items() <= machine.items():
            return floor_of(record, limits) if cell.device == "cpu" else None
    return None


def _quantiles(row: LatencyRow, count: int) -> list[int]:
    timed = row.record.timed
    if not timed:
        return []
    samples = np.concatenate([item.samples for item in timed])
    return [int(value) for value in np.quantile(samples, np.linspace(0, 1, min(count, len(samples)) + 1))]


def _marks(records: Sequence[CellRecord]) -> dict[str, str]:
    """Return, by key, ``best`` for the fastest of comparable records and ``tie`` for those not detectably slower."""
    groups: dict[tuple[Any, ...], list[CellRecord]] = {}
    for record in records:
        if record.timed:
            groups.setdefault(setting(record.cell), []).append(record)
    marks: dict[str, str] = {}
    for group in groups.values():
        best = min(group, key=lambda item: float(np.mean(np.log(list(medians(item).values())))))
        marks |= {item.cell.key: "tie" for item in group if not _slower(best, item)}
        marks[best.cell.key] = "best"
    return marks


def _slower(best: CellRecord, other: CellRecord) -> bool:
    first, second = medians(best), medians(other)
    both = sorted(set(first) & set(second))
    return bool(both) and ratio([first[number] for number in both], [second[number] for number in both]).low > 1


def _accuracy_row(record: CellRecord, inputs: ReportInputs) -> tuple[Path, JsonObject, JsonObject] | None:
    """Return the newest accuracy of the file that was timed, or of the weights that PyTorch ran: path, data, row."""
    digest = record.cell.digest if record.about.get("file") else record.about.get("weights")
    for path, document in inputs.accuracies:
        for row in document["rows"]:
            if path.parent.parent.name == record.cell.slug and row["digest"] == digest:
                return path, document["data"], row
    return None


def _accuracy(record: CellRecord, inputs: ReportInputs) -> dict[str, Any] | None:
    known = _accuracy_row(record, inputs)
    if known is None:
        return None
    _, data, row = known
    comparison = row["comparison"] or {}
    return {
        **{name: row["accuracy"][name] for name in score.FIELDS if name in row["accuracy"]},
        **{name: comparison.get(name) for name in ("difference", "difference_interval", "verdict")},
        "data": data["name"],
        "digest": data["digest"],
        "on": row["runtime"],
    }


def _links(path: Path, record: CellRecord, inputs: ReportInputs) -> Iterator[tuple[str, Path]]:
    """Yield the files that support a row, with the names of the links to them."""
    cell = record.cell
    artifacts = [item for item in inputs.artifacts if item.manifest.slug == cell.slug]
    yield "raw samples", path
    yield from (("manifest and parity", manifest_path(item.path)) for item in artifacts if _is_of(record, item))
    if cell.precision == "int8":
        tables = (item.path for item in artifacts if item.manifest.format == "calibration")
        yield from (("calibration table", table) for table in tables if table.exists())
    if (known := _accuracy_row(record, inputs)) is not None:
        yield "accuracy", known[0]
    yield from (("profile", file) for file, profile in inputs.profiles if same_cell(profile, asdict(cell)))


def _is_of(record: CellRecord, artifact: Artifact) -> bool:
    """Return whether a record is of this artifact: of its file, or of its weights run by PyTorch."""
    manifest = artifact.manifest
    if record.about.get("file"):
        return manifest.files[0].sha256 == record.cell.digest
    return manifest.format == "safetensors" and [manifest.files[0].sha256] == record.about.get("weights")
