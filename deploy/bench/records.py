"""What was timed, on disk: a file a cell with every repetition in it; and what could not be timed, and why."""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core import records
from deploy.core.errors import ArtifactError

SCHEMA = 1
KIND = "timings"
FOLDER, ABSENT = records.BENCH, records.SKIPPED


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is timed; two runs with the same `key` may be put together.

    Attributes:
        model, slug: as in manifests.
        backend: as users name it, ``torch-compile``.
        digest: SHA-256 of the file that runs, or of the weights that PyTorch runs.
        target: of an INT8 file.
        sizes: of every dynamic dimension, the batch among them.
        threads: within an operator, the same for every backend.
        options: of the backend, and of the scenario.
        versions: of the packages that run it.
        machine: the part of its description that decides times, with the ``kind`` it has in a sweep over several.
    """

    model: str
    slug: str
    backend: str
    precision: str
    digest: str
    batch: int
    sizes: Mapping[str, int]
    threads: int
    device: str = "cpu"
    target: str | None = None
    scenario: str = "latency"
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name it."""
        return records.key_of(dataclasses.asdict(self))

    def __str__(self) -> str:
        return f"{self.slug} {self.backend} {self.precision} batch {self.batch}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repetition:
    """One process; times in nanoseconds.

    Attributes:
        samples: of single calls, or of requests.
        thinned: one of so many calls was kept.
        details: what the worker told: import, load, first call, warm-up, memory, copies, interference.
        failure: why there are no samples; empty where there are.
    """

    number: int
    samples: NDArray[np.int64]
    thinned: int = 1
    details: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRecord:
    """A cell with what was found so far.

    Attributes:
        evidence: verdict and reasons on what ran (``pass``, ``reference``, ``measured`` …).
        about: bytes on disk, operations, weights, command, conditions: what the report shows.
    """

    cell: Cell
    evidence: Mapping[str, Any]
    about: Mapping[str, Any]
    repetitions: tuple[Repetition, ...] = ()

    @property
    def timed(self) -> tuple[Repetition, ...]:
        """Repetitions that have samples."""
        return tuple(item for item in self.repetitions if not item.failure)

    @property
    def failure(self) -> str:
        """Why nothing could be timed; empty where something was."""
        return "" if self.timed else next((item.failure for item in self.repetitions), "")

    def adding(self, repetition: Repetition) -> CellRecord:
        """With one more repetition, in place of an earlier one of its number."""
        others = [item for item in self.repetitions if item.number != repetition.number]
        ordered = sorted([*others, repetition], key=lambda item: item.number)
        return dataclasses.replace(self, repetitions=tuple(ordered))


def record_path(root: Path, cell: Cell) -> Path:
    """Where the record of a cell lies."""
    name = f"{cell.slug}.{cell.precision}-{cell.backend}-b{cell.batch}.{cell.key}.json"
    return root / cell.slug / FOLDER / name


def save(root: Path, record: CellRecord) -> Path:
    """Write a record, durably and at once.

    Raises:
        StorageError: the disk refused.
    """
    path = record_path(root, record.cell)
    content = {
        "cell": dataclasses.asdict(record.cell),
        "evidence": dict(record.evidence),
        "about": dict(record.about),
        "repetitions": [_plain(item) for item in record.repetitions],
    }
    records.save(path, KIND, SCHEMA, content)
    return path


def load(path: Path) -> CellRecord:
    """Read a record.

    Raises:
        ArtifactError: it is damaged, or of another schema.
        DigestError: it is not what was written.
    """
    document = records.load(path, KIND, SCHEMA)
    try:
        return CellRecord(
            cell=Cell(**document["cell"]),
            evidence=document["evidence"],
            about=document["about"],
            repetitions=tuple(_revive(item) for item in document["repetitions"]),
        )
    except (TypeError, KeyError, ValueError, zlib.error) as exc:
        raise ArtifactError(f"{path}: the record is damaged: {exc}.") from exc


PROFILE = "profile"


def save_profile(root: Path, cell: Cell, profile: Mapping[str, Any]) -> Path:
    """Keep where the time of a cell goes, beside its record.

    Args:
        root: the artifacts directory.
        cell: what was profiled.
        profile: plain values, those of the cell among them.

    Raises:
        StorageError: the disk refused.
    """
    path = record_path(root, cell)
    path = path.with_name(f"{path.name.removesuffix(f'{cell.key}.json')}{PROFILE}.{cell.key}.json")
    records.save(path, PROFILE, SCHEMA, {PROFILE: dict(profile)})
    return path


def load_profile(path: Path) -> dict[str, Any]:
    """Read what `save_profile` wrote.

    Raises:
        ArtifactError: it is damaged, or of another schema.
    """
    found: dict[str, Any] = records.load(path, PROFILE, SCHEMA)[PROFILE]
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedCell:
    """A cell that could not be timed, and why.

    Attributes:
        model: as it was asked for.
        machine: the kind of machine, where a sweep had several.
    """

    model: str
    backend: str
    precision: str
    batch: int | None
    why: str
    machine: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def save_absent(root: Path, item: SkippedCell) -> None:
    """Keep that a cell could not be timed; it takes the place of an earlier reason.

    Raises:
        StorageError: the disk refused.
    """
    records.save(absent_path(root, item), "absence", SCHEMA, item.to_dict())


def absent_path(root: Path, item: SkippedCell) -> Path:
    """Where it is kept that a cell could not be timed."""
    where = [] if item.machine is None else [item.machine]
    key = records.key_of([item.model, item.backend, item.precision, item.batch, *where])
    return root / ABSENT / f"{key}.json"


def load_absent(path: Path) -> SkippedCell:
    """Read what `save_absent` wrote.

    Raises:
        ArtifactError: it is damaged, or of another schema.
    """
    document = records.load(path, "absence", SCHEMA)
    try:
        known = {"machine": None, **document}  # which the first records did not tell
        return SkippedCell(**{item.name: known[item.name] for item in dataclasses.fields(SkippedCell)})
    except KeyError as exc:
        raise ArtifactError(f"{path}: the record is damaged: it lacks {exc}.") from exc


def _plain(item: Repetition) -> dict[str, Any]:
    packed = zlib.compress(item.samples.astype("<i8").tobytes(), 9)
    return {**dataclasses.asdict(item), "samples": base64.b85encode(packed).decode()}


def _revive(item: dict[str, Any]) -> Repetition:
    samples = np.frombuffer(zlib.decompress(base64.b85decode(item["samples"])), "<i8")
    return Repetition(**{**item, "samples": samples})
