"""Reads what a report shows from the artifacts directory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from deploy.bench import records as timing
from deploy.bench.limits import MachineLimits, stored_limits
from deploy.bench.records import Cell, CellRecord, SkippedCell
from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.core.records import is_record
from deploy.core.regular import read_document
from deploy.core.store import Store, json_files
from deploy.evaluation import records as accuracy

Document = TypeVar("Document")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInputs:
    """Everything a report is made from.

    Attributes:
        records: the newest record of every configuration and machine, with its file.
        superseded: number of older records that were left out.
        accuracies: accuracy documents with their files, the newest first.
        curves: training curves by slug, one row per epoch.
        limits: machines and their measured limits, the newest first.
    """

    records: tuple[tuple[Path, CellRecord], ...]
    superseded: int
    accuracies: tuple[tuple[Path, Mapping[str, Any]], ...]
    profiles: tuple[tuple[Path, Mapping[str, Any]], ...]
    skipped: tuple[SkippedCell, ...]
    artifacts: tuple[Artifact, ...]
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    limits: tuple[tuple[Mapping[str, Any], MachineLimits], ...]


def collect(store: Store, models: Sequence[str], progress: Progress) -> ReportInputs:
    """Read everything a report on some models is made from; damaged records are left out with a warning."""
    files = [path for path in store.records(timing.FOLDER) if is_record(path)]
    every = [
        (path, record)
        for path, record in _load_all((path for path in files if not _is_profile(path)), timing.load, progress)
        if is_of(record.cell, models)
    ]
    newest = _newest(every)
    slugs = {record.cell.slug for _, record in newest}
    profiles = _load_all(filter(_is_profile, files), timing.load_profile, progress)
    documents = _load_all(
        (path for slug in slugs for path in store.records(accuracy.FOLDER, slug) if is_record(path)),
        accuracy.load,
        progress,
    )
    skipped = (item for _, item in _load_all(json_files(store.root / timing.SKIPPED), timing.load_skipped, progress))
    timed = {
        (name, cell.backend, cell.precision, cell.batch, cell.machine.get("kind"))
        for cell in (record.cell for _, record in newest)
        for name in _names(cell)
    }
    return ReportInputs(
        records=tuple(newest),
        superseded=len(every) - len(newest),
        accuracies=tuple(sorted(documents, key=lambda pair: str(pair[1]["created"]), reverse=True)),
        profiles=tuple((path, profile) for path, profile in profiles if profile["slug"] in slugs),
        skipped=tuple(
            item
            for item in skipped
            if (not models or item.model in models)
            and (item.model, item.backend, item.precision, item.batch, item.machine) not in timed
        ),
        artifacts=tuple(item for item in store.artifacts() if item.manifest.slug in slugs),
        curves={slug: curve for slug in sorted(slugs) if (curve := _curve(store, slug))},
        limits=tuple(stored_limits(store.root)),
    )


def is_of(cell: Cell, models: Sequence[str]) -> bool:
    """Return whether a configuration is of one of these models, or no model is named."""
    return not models or not _names(cell).isdisjoint(models)


def setting(cell: Cell) -> tuple[Any, ...]:
    """Return what configurations must have in common for their latencies to be comparable."""
    sizes, machine = (tuple(sorted(values.items())) for values in (cell.sizes, cell.machine))
    return cell.slug, cell.batch, sizes, cell.threads, cell.device, cell.scenario, machine


def _names(cell: Cell) -> set[str]:
    """Return the names by which users may call the model of a configuration."""
    return {cell.model, cell.slug, cell.model.partition("/")[2]}


def _newest(records: Iterable[tuple[Path, CellRecord]]) -> list[tuple[Path, CellRecord]]:
    """Keep the newest of the records that differ only in file digest, package versions and measuring time."""

    def created(record: CellRecord) -> str:
        return str(record.about.get("created", ""))

    newest: dict[tuple[Any, ...], tuple[Path, CellRecord]] = {}
    for path, record in records:
        cell = record.cell
        options = sorted((name, value) for name, value in cell.options.items() if name != "time_s")
        key = (*setting(cell), cell.backend, cell.precision, cell.target, repr(options))
        if key not in newest or created(record) >= created(newest[key][1]):
            newest[key] = (path, record)
    return list(newest.values())


def _load_all(
    paths: Iterable[Path], read: Callable[[Path], Document], progress: Progress
) -> Iterator[tuple[Path, Document]]:
    for path in sorted(paths):
        try:
            yield path, read(path)
        except ArtifactError as exc:
            progress.warn(f"left out of the report: {exc.message}")


def _is_profile(path: Path) -> bool:
    return path.name.split(".")[-3:-2] == [timing.PROFILE]


def _curve(store: Store, slug: str) -> list[dict[str, float]]:
    """Read the training curve of a model; empty if there is none or it cannot be read."""
    path = store.folder(slug) / f"{slug}.training.csv"
    try:
        rows = csv.DictReader(read_document(path).splitlines())
        return [{name: float(value) for name, value in row.items()} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error):
        return []
