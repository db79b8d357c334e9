"""What was timed, on disk: one file a cell, every repetition in it, complete or not there."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import ArtifactError, DigestError
from deploy.core.store import write_file

SCHEMA = 1
KIND = "timings"
FOLDER = "bench"
"""Of a model's folder; where its records lie."""

KEY_DIGITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is timed; two runs with the same `key` may be put together.

    Attributes:
        model, slug: as in manifests.
        backend: as users name it, ``torch-compile``.
        what: digest of the file that runs, or of the weights that PyTorch runs.
        target: of an INT8 file.
        sizes: of every dynamic dimension, the batch among them.
        threads: within an operator, the same for every backend.
        options: of the backend, and of the scenario.
        versions: of the packages that run it.
        machine: the part of its description that decides times.
    """

    model: str
    slug: str
    backend: str
    precision: str
    what: str
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
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    def __str__(self) -> str:
        return f"{self.slug} {self.backend} {self.precision} batch {self.batch}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repetition:
    """One process; times in nanoseconds.

    Attributes:
        samples: of single calls, or of requests.
        thinned: one of so many calls was kept.
        details: what the worker told: import, load, first call, warm-up, memory, copies, surroundings.
        failure: why there are no samples; empty where there are.
    """

    number: int
    samples: NDArray[np.int64]
    thinned: int = 1
    details: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
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

    def adding(self, repetition: Repetition) -> Record:
        """With one more repetition, in place of an earlier one of its number."""
        others = [item for item in self.repetitions if item.number != repetition.number]
        ordered = sorted([*others, repetition], key=lambda item: item.number)
        return dataclasses.replace(self, repetitions=tuple(ordered))


def record_path(root: Path, cell: Cell) -> Path:
    """Where the record of a cell lies."""
    name = f"{cell.slug}.{cell.precision}-{cell.backend}-b{cell.batch}.{cell.key}.json"
    return root / cell.slug / FOLDER / name


def is_record(path: Path) -> bool:
    """Whether a file lies where records do and is named as they are."""
    return path.parent.name == FOLDER and len(path.name.split(".")[-2]) == KEY_DIGITS and path.suffix == ".json"


def save(root: Path, record: Record) -> Path:
    """Write a record, durably and at once.

    Raises:
        StorageError: the disk refused.
    """
    document = {
        "kind": KIND,
        "schema": SCHEMA,
        "cell": dataclasses.asdict(record.cell),
        "evidence": dict(record.evidence),
        "about": dict(record.about),
        "repetitions": [_plain(item) for item in record.repetitions],
    }
    path = record_path(root, record.cell)
    body = json.dumps(document, indent=1, sort_keys=True)
    write_file(path, (json.dumps({**document, "sha256": _digest(body)}, indent=1, sort_keys=True) + "\n").encode())
    return path


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def load(path: Path) -> Record:
    """Read a record.

    Raises:
        ArtifactError: it is damaged, or of another schema.
        DigestError: it is not what was written.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc}.") from exc
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ArtifactError(f"{path}: not a record of timings.")
    if document.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path}: record schema {document.get('schema')!r}, this version reads {SCHEMA}.", "measure again (--again)"
        )
    told = document.pop("sha256", None)
    if told != _digest(json.dumps(document, indent=1, sort_keys=True)):
        raise DigestError(f"{path}: its content is not what was recorded.", "measure again (--again)")
    try:
        return Record(
            cell=Cell(**document["cell"]),
            evidence=document["evidence"],
            about=document["about"],
            repetitions=tuple(_revive(item) for item in document["repetitions"]),
        )
    except (TypeError, KeyError, ValueError, zlib.error) as exc:
        raise ArtifactError(f"{path}: the record is damaged: {exc}.") from exc


def _plain(item: Repetition) -> dict[str, Any]:
    packed = zlib.compress(item.samples.astype("<i8").tobytes(), 9)
    return {**dataclasses.asdict(item), "samples": base64.b85encode(packed).decode()}


def _revive(item: dict[str, Any]) -> Repetition:
    samples = np.frombuffer(zlib.decompress(base64.b85decode(item["samples"])), "<i8")
    return Repetition(**{**item, "samples": samples})
