"""From records to the rows of the report: plain values, each with its evidence and the command that repeats it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench.limits import Floor, floor_of
from deploy.bench.records import CellRecord
from deploy.bench.rows import LatencyRow, medians, rows_of
from deploy.bench.statistics import ratio
from deploy.core.artifact import Artifact, manifest_path
from deploy.report.collect import Collection, setting

QUANTILES = 100
"""Order statistics of a row's samples that the report shows; fewer where there are many rows."""
MOST_QUANTILES = 40_000


def report_rows(found: Collection, baseline: str, folder: Path) -> list[dict[str, Any]]:
    """A row for every record, models together, the fastest of each first.

    Args:
        found: what the artifacts directory knows.
        baseline: the backend, in float32, that speed-ups are against.
        folder: where the report is written; links are relative to it.
    """
    records = [record for _, record in found.records]
    floors = {record.cell.key: item for record in records if (item := _floor(record, found)) is not None}
    marks = _marks(records)
    count = max(10, min(QUANTILES, MOST_QUANTILES // max(len(records), 1)))
    rows = []
    for (path, record), row in zip(found.records, rows_of(records, baseline, floors), strict=True):
        plain = row.to_dict()
        about = record.about
        rows.append(
            {
                **{name: value for name, value in plain.items() if name not in ("scenario_details", "top1")},
                "medians_ns": list(medians(record).values()),
                "quantiles_ns": _quantiles(row, count),
                "mark": marks.get(record.cell.key),
                "accuracy": _accuracy(record, found),
                "parameters": about.get("parameters"),
                "machine": _machine(record),
                "conditions": about.get("conditions"),
                "versions": about.get("versions", {}),
                "work": about.get("work"),
                "created": about.get("created"),
                "command": command(record),
                "links": {name: _relative(item, folder) for name, item in _evidence(path, record, found)},
            }
        )
    return sorted(rows, key=lambda row: (row["slug"], row["batch"], (row["latency"] or FOREVER)["median_ns"]["value"]))


FOREVER: Mapping[str, Any] = {"median_ns": {"value": float("inf")}}


def command(record: CellRecord) -> str:
    """What measures this row again."""
    cell = record.cell
    words = ["deploy", "bench", cell.model, "--backends", cell.backend, "--precision", cell.precision]
    words += ["--batch", str(cell.batch), "--threads", str(cell.threads)]
    if cell.device != "cpu":
        words += ["--device", cell.device]
    if cell.scenario != "latency":
        words += ["--scenario", cell.scenario]
    for name, flag in (("rate", "--rate"), ("p99_ms", "--p99"), ("mode", "--mode"), ("time_s", "--min-time")):
        if name in cell.options and (name, cell.options[name]) != ("time_s", 1.0):
            words += [flag, str(cell.options[name])]
    if cell.options.get("graph"):
        words.append("--graph")
    return shlex.join([*words, "--again"])


def _machine(record: CellRecord) -> dict[str, Any]:
    known = record.about.get("machine") or record.cell.machine
    return {name: value for name, value in known.items() if value is not None}


def _floor(record: CellRecord, found: Collection) -> Floor | None:
    """Under a record, from the limits of its own machine with as many threads."""
    cell = record.cell
    own = {name: value for name, value in cell.machine.items() if name != "kind"}
    for machine, limits in found.limits:
        if limits.threads == cell.threads and own.items() <= machine.items():
            return floor_of(record, limits) if cell.device == "cpu" else None
    return None


def _quantiles(row: LatencyRow, count: int) -> list[int]:
    timed = row.record.timed
    if not timed:
        return []
    every = np.concatenate([item.samples for item in timed])
    return [int(value) for value in np.quantile(every, np.linspace(0, 1, min(count, len(every)) + 1))]


def _marks(records: Sequence[CellRecord]) -> dict[str, str]:
    """``best`` of a setting, and ``tie`` for what is not detectably slower than the best; by key."""
    groups: dict[tuple[Any, ...], list[CellRecord]] = {}
    for record in records:
        if record.timed:
            groups.setdefault(setting(record), []).append(record)
    marks = {}
    for group in groups.values():
        typical = {item.cell.key: float(np.exp(np.mean(np.log(list(medians(item).values()))))) for item in group}
        best = min(group, key=lambda item: typical[item.cell.key])
        marks[best.cell.key] = "best"
        for other in group:
            if other is not best and not _slower(best, other):
                marks[other.cell.key] = "tie"
    return marks


def _slower(best: CellRecord, other: CellRecord) -> bool:
    ours, theirs = medians(best), medians(other)
    both = sorted(set(ours) & set(theirs))
    return bool(both) and ratio([ours[item] for item in both], [theirs[item] for item in both]).low > 1


def _judged(record: CellRecord, found: Collection) -> tuple[Path, Mapping[str, Any], Mapping[str, Any]] | None:
    """The newest accuracy of the very file, or of the very weights that PyTorch runs: its file, images and row."""
    ran = record.cell.digest if record.about.get("file") else record.about.get("weights")
    for path, document in found.judged:
        for row in document["rows"]:
            if path.parent.parent.name == record.cell.slug and row["digest"] == ran:
                return path, document["data"], row
    return None


def _accuracy(record: CellRecord, found: Collection) -> dict[str, Any] | None:
    judged = _judged(record, found)
    if judged is None:
        return None
    _, data, row = judged
    compared = row["comparison"] or {}
    return {
        **{name: row["accuracy"][name] for name in ("top1", "top1_interval", "images")},
        **{name: compared.get(name) for name in ("difference", "difference_interval", "verdict")},
        "data": data["name"],
        "digest": data["digest"],
        "on": row["runtime"],
    }


def _evidence(path: Path, record: CellRecord, found: Collection) -> list[tuple[str, Path]]:
    links = [("raw samples", path)]
    cell = record.cell
    mine = [item for item in found.artifacts if item.manifest.slug == cell.slug]
    for item in mine:
        if _ran(item, record):
            links.append(("manifest and parity", manifest_path(item.path)))
    tables = [item for item in mine if item.manifest.format == "calibration"]
    if cell.precision == "int8":
        links += [("calibration table", item.path) for item in tables if item.path.exists()]
    if (judged := _judged(record, found)) is not None:
        links.append(("accuracy", judged[0]))
    links += [("profile", place) for place, profile in found.profiles if same_cell(profile, asdict(cell))]
    return links


def _ran(artifact: Artifact, record: CellRecord) -> bool:
    """Whether a record is of this artifact: of this file, or of these weights in PyTorch."""
    manifest = artifact.manifest
    if record.about.get("file"):
        return manifest.files[0].sha256 == record.cell.digest
    return manifest.format == "safetensors" and [manifest.files[0].sha256] == record.about.get("weights")


def same_cell(profile: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a profile is of what a row timed."""
    fields = ("slug", "backend", "precision", "digest", "batch", "threads", "device")
    return all(profile[name] == row[name] for name in fields)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
