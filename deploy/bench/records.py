"""Records on disk: one file per cell with all its repetitions, and skipped cells with the reason."""

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
from deploy.core.archive import inflate
from deploy.core.errors import ArtifactError
from deploy.core.names import is_plain

SCHEMA = 2
KIND = "timings"
FOLDER, SKIPPED = records.BENCH, records.SKIPPED


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Identity of a cell; measurements with the same `key` may be combined.

    Attributes:
        model, slug: as in manifests.
        digest: SHA-256 of the file that runs, or of the weights that PyTorch runs.
        sizes: size of every dynamic dimension, including the batch.
        threads: threads within an operator, the same for every backend.
        target: quantization target of an INT8 file.
        options: options of the backend and the scenario.
        versions: versions of the packages that run it.
        machine: parts of the machine's description that decide latencies, with its ``kind`` in a sweep over several.
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
        """Sixteen hexadecimal digits that identify it."""
        return records.key_of(dataclasses.asdict(self))

    def __str__(self) -> str:
        return f"{self.slug} {self.backend} {self.precision} batch {self.batch}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repetition:
    """Measurements of one process.

    Attributes:
        number: number of the repetition, from 0.
        samples: nanoseconds of single calls, or of requests.
        thinned: one of this many samples was kept.
        details: further measurements: import, load, first call, warm-up, memory, copies, interference.
        failure: reason for having no samples; empty otherwise.
    """

    number: int
    samples: NDArray[np.int64]
    thinned: int = 1
    details: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRecord:
    """A cell with its measurements so far, one repetition per process.

    Attributes:
        evidence: parity verdict (``pass``, ``reference``, ``measured`` ...) and reasons.
        about: bytes on disk, operations, weights, conditions: fields of the report.
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
        """Reason for having no samples at all; empty otherwise."""
        return "" if self.timed else next((item.failure for item in self.repetitions), "")

    def adding(self, repetition: Repetition) -> CellRecord:
        """Return the record with one more repetition, which replaces one of the same number."""
        others = [item for item in self.repetitions if item.number != repetition.number]
        ordered = sorted([*others, repetition], key=lambda item: item.number)
        return dataclasses.replace(self, repetitions=tuple(ordered))


def record_path(root: Path, cell: Cell) -> Path:
    """Return the path of a cell's record."""
    name = f"{cell.slug}.{cell.precision}-{cell.backend}-b{cell.batch}.{cell.key}.json"
    return root / cell.slug / FOLDER / name


def save(root: Path, record: CellRecord) -> Path:
    """Write a record atomically and durably; return its path."""
    path = record_path(root, record.cell)
    content = {
        "cell": dataclasses.asdict(record.cell),
        "evidence": dict(record.evidence),
        "about": dict(record.about),
        "repetitions": [_packed(item) for item in record.repetitions],
    }
    records.save(path, KIND, SCHEMA, content)
    return path


def load(path: Path) -> CellRecord:
    """Read a record.

    Raises:
        ArtifactError: it is damaged, or has another schema.
    """
    document = records.load(path, KIND, SCHEMA)
    try:
        cell = Cell(**document["cell"])
        if not is_plain(cell.slug):
            raise ValueError(f"the slug {cell.slug!r} is not the name of a folder")
        return CellRecord(
            cell=cell,
            evidence=document["evidence"],
            about=document["about"],
            repetitions=tuple(_unpacked(item) for item in document["repetitions"]),
        )
    except (TypeError, KeyError, ValueError, AttributeError, zlib.error) as exc:
        raise ArtifactError(f"{path}: the record is damaged: {exc}.") from exc


PROFILE = "profile"


def save_profile(root: Path, cell: Cell, profile: Mapping[str, Any]) -> Path:
    """Write the profile of a cell, plain values, beside its record; return its path."""
    path = record_path(root, cell)
    path = path.with_name(f"{path.name.removesuffix(f'{cell.key}.json')}{PROFILE}.{cell.key}.json")
    records.save(path, PROFILE, SCHEMA, {PROFILE: dict(profile)})
    return path


def load_profile(path: Path) -> dict[str, Any]:
    """Read what `save_profile` wrote."""
    found: dict[str, Any] = records.load(path, PROFILE, SCHEMA)[PROFILE]
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedCell:
    """A cell that could not be timed.

    Attributes:
        model: name as the user wrote it.
        batch: None if it does not matter.
        machine: kind of the machine, in a sweep over several.
    """

    model: str
    backend: str
    precision: str
    batch: int | None
    reason: str
    machine: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


def save_skipped(root: Path, item: SkippedCell) -> None:
    """Record that a cell was skipped; it replaces an earlier reason."""
    records.save(skipped_path(root, item), "skipped", SCHEMA, item.to_dict())


def skipped_path(root: Path, item: SkippedCell) -> Path:
    """Return the path of a skipped cell's record."""
    where = [] if item.machine is None else [item.machine]
    key = records.key_of([item.model, item.backend, item.precision, item.batch, *where])
    return root / SKIPPED / f"{key}.json"


def load_skipped(path: Path) -> SkippedCell:
    """Read what `save_skipped` wrote."""
    document = records.load(path, "skipped", SCHEMA)
    try:
        known = {"machine": None, **document}  # the first records lack it
        return SkippedCell(**{item.name: known[item.name] for item in dataclasses.fields(SkippedCell)})
    except KeyError as exc:
        raise ArtifactError(f"{path}: the record is damaged: it lacks {exc}.") from exc


def _packed(item: Repetition) -> dict[str, Any]:
    packed = zlib.compress(item.samples.astype("<i8").tobytes(), 9)
    return {**dataclasses.asdict(item), "samples": base64.b85encode(packed).decode()}


def _unpacked(item: dict[str, Any]) -> Repetition:
    samples = np.frombuffer(inflate(base64.b85decode(item["samples"])), "<i8")
    return Repetition(**{**item, "samples": samples})
