"""What the artifacts directory knows: records of timings, of accuracy, of profiles; manifests, curves, limits."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.bench.limits import MachineLimits, stored_limits
from deploy.bench.records import ABSENT, FOLDER, PROFILE, Cell, CellRecord, SkippedCell, load, load_absent, load_profile
from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.core.records import is_record
from deploy.core.store import Store
from deploy.evaluation import records as accuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """All that a report is made of.

    Attributes:
        records: the newest of every cell and machine, with the file of each.
        superseded: how many older ones were left out.
        judged: records of accuracy, the newest first.
        profiles: by the cells they are of.
        absent: cells without a record, and why.
        artifacts: of every model that has one.
        curves: rows of training, by slug.
        limits: of machines, the newest first.
    """

    records: tuple[tuple[Path, CellRecord], ...]
    superseded: int
    judged: tuple[tuple[Path, Mapping[str, Any]], ...]
    profiles: tuple[tuple[Path, Mapping[str, Any]], ...]
    absent: tuple[SkippedCell, ...]
    artifacts: tuple[Artifact, ...]
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    limits: tuple[tuple[Mapping[str, Any], MachineLimits], ...]


def collect(store: Store, models: Sequence[str], progress: Progress) -> Collection:
    """Read it.

    Args:
        store: the artifacts directory.
        models: names or slugs; none takes all.
        progress: warned of every record that is damaged and therefore left out.
    """
    every = [(path, record) for path, record in _records(store, progress) if named(record, models)]
    newest = _newest(every)
    slugs = {record.cell.slug for _, record in newest}
    known = {(name, *_measured(cell)) for cell, name in _names(newest)}
    absent = [item for item in _absent(store, progress) if not models or item.model in models]
    return Collection(
        records=tuple(newest),
        superseded=len(every) - len(newest),
        judged=tuple(_judged(store, slugs, progress)),
        profiles=tuple(_profiles(store, slugs, progress)),
        absent=tuple(item for item in absent if _named(item) not in known),
        artifacts=tuple(item for item in store.artifacts() if item.manifest.slug in slugs),
        curves={slug: curve for slug in sorted(slugs) if (curve := _curve(store, slug))},
        limits=tuple(stored_limits(store.root)),
    )


def identity(record: CellRecord) -> tuple[Any, ...]:
    """What two records have in common of which only the newer counts: all but what ran, its version and the seconds."""
    cell = record.cell
    options = {name: value for name, value in cell.options.items() if name != "time_s"}
    return (*setting(record), cell.backend, cell.precision, cell.target, repr(sorted(options.items())))


def setting(record: CellRecord) -> tuple[Any, ...]:
    """What rows must share to be compared with each other."""
    cell = record.cell
    return (
        cell.slug,
        cell.batch,
        tuple(sorted(cell.sizes.items())),
        cell.threads,
        cell.device,
        cell.scenario,
        tuple(sorted(cell.machine.items())),
    )


def named(record: CellRecord, models: Sequence[str]) -> bool:
    """Whether a record is of one of these models; of any where none is named."""
    cell = record.cell
    return not models or not {cell.model, cell.slug, cell.model.partition("/")[2]}.isdisjoint(models)


def _measured(cell: Cell) -> tuple[str, str, int, str | None]:
    return cell.backend, cell.precision, cell.batch, cell.machine.get("kind")


def _named(item: SkippedCell) -> tuple[str, str, str, int | None, str | None]:
    return item.model, item.backend, item.precision, item.batch, item.machine


def _names(records: Sequence[tuple[Path, CellRecord]]) -> Iterator[tuple[Cell, str]]:
    """Cells with every name that a model goes by."""
    for _, record in records:
        cell = record.cell
        yield from ((cell, name) for name in (cell.model, cell.slug, cell.model.partition("/")[2]))


def _sound(paths: Iterator[Path] | Sequence[Path], read: Any, progress: Progress) -> Iterator[tuple[Path, Any]]:
    for path in sorted(paths):
        try:
            yield path, read(path)
        except ArtifactError as exc:
            progress.warn(f"left out: {exc.message}")


def _in(store: Store, folder: str) -> list[Path]:
    return [path for path in store.root.glob(f"*/{folder}/*.json") if is_record(path)]


def _is_profile(path: Path) -> bool:
    return path.name.split(".")[-3] == PROFILE


def _records(store: Store, progress: Progress) -> Iterator[tuple[Path, CellRecord]]:
    return _sound([path for path in _in(store, FOLDER) if not _is_profile(path)], load, progress)


def _profiles(store: Store, slugs: set[str], progress: Progress) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    found = _sound([path for path in _in(store, FOLDER) if _is_profile(path)], load_profile, progress)
    return ((path, profile) for path, profile in found if profile["slug"] in slugs)


def _judged(store: Store, slugs: set[str], progress: Progress) -> list[tuple[Path, Mapping[str, Any]]]:
    found = _sound(
        [path for path in _in(store, accuracy.FOLDER) if path.parent.parent.name in slugs], accuracy.load, progress
    )
    return sorted(found, key=lambda pair: pair[1]["created"], reverse=True)


def _absent(store: Store, progress: Progress) -> list[SkippedCell]:
    return [item for _, item in _sound((store.root / ABSENT).glob("*.json"), load_absent, progress)]


def _newest(records: Sequence[tuple[Path, CellRecord]]) -> list[tuple[Path, CellRecord]]:
    found: dict[tuple[Any, ...], tuple[Path, CellRecord]] = {}
    for path, record in records:
        key = identity(record)
        if key not in found or _created(record) >= _created(found[key][1]):
            found[key] = (path, record)
    return list(found.values())


def _created(record: CellRecord) -> str:
    return str(record.about.get("created", ""))


def _curve(store: Store, slug: str) -> list[dict[str, float]]:
    """Rows of a training; none where there was no training, or what is there is something else."""
    path = store.folder(slug) / f"{slug}.training.csv"
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
    except (OSError, ValueError, TypeError):
        return []
