"""A task of a sweep, and the files that it reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.store import Store, json_files
from deploy.models.request import split_key
from deploy.support.lookup import names_of

PROGRAM = ".pt2"

Work = Mapping[str, Any]
"""Plain values that describe a task completely, on any machine."""

Notify = Callable[[Mapping[str, Any]], None]
"""Receives messages of a running task. Keys: ``doing``, ``note``, ``warn``, and ``saved``, paths of finished files."""

Job = Callable[[Work, Path, Notify], dict[str, Any]]
"""Runs a task: its work, the artifacts directory, and the receiver of its messages; returns plain values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A unit of work.

    Attributes:
        kind: ``export``, ``quantize``, ``build``, ``evaluate`` or ``bench``.
        group: the model; tasks of a group share files.
        work: what to do; see `deploy.sweeps.plan`.
        needs: tasks that must have succeeded before.
        after: tasks that must have ended before, successfully or not.
        machine: required kind of machine; None for any.
        exclusive: no other task may run on the node at the same time.
        cpus: CPU cores of the node; 0 for all.
        seconds: expected duration in seconds; None if unknown.
    """

    name: str
    kind: str
    group: str
    work: Work
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    machine: str | None = None
    exclusive: bool = False
    cpus: int = 1
    gpus: int = 0
    seconds: float | None = None

    @property
    def units(self) -> int:
        """What the duration is proportional to: worker processes of a benchmark; 1 for every other kind."""
        if self.kind != "bench":
            return 1
        return len(self.work["wanted"]) * len(self.work["batches"]) * int(self.work["repetitions"])

    @property
    def sources(self) -> tuple[str, ...]:
        """Names and paths that the user gave and the task reads: model, weights, calibration and evaluation data."""
        request = self.work["request"]
        sources = (
            *(str(split_key(request[item])[0]) for item in ("name", "weights")),
            self.work.get("calib"),
            self.work.get("data"),
        )
        return tuple(text for text in sources if text)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFiles:
    """Files that a task reads, for executors whose nodes have their own disks.

    Attributes:
        artifacts: files in the artifacts directory.
        others: files below the working directory; they keep their relative paths on the node.
    """

    artifacts: Sequence[Path] = ()
    others: Sequence[Path] = ()


def files_of(task: Task, store: Store) -> TaskFiles:
    """Return the artifacts and timings of the task's model, and the relative paths that the user gave.

    Absolute paths are left out: they must exist on every node.
    """
    names = {task.group, task.group.rpartition("/")[2]}
    own = [item for item in store.artifacts() if not names.isdisjoint(names_of(item.manifest))]
    artifacts = [path for item in own for path in item.paths]
    if task.kind == "bench":
        for folder in sorted({item.path.parent for item in own}):
            artifacts += json_files(folder / "bench")
    paths = [path for path in map(_path, task.sources) if not path.is_absolute() and ".." not in path.parts]
    return TaskFiles(artifacts=artifacts, others=[item for path in paths for item in _below(path)])


def fingerprint_of(source: str) -> list[Any]:
    """Return a source with a digest of the sizes and modification times of its files; None if there are none."""
    files = [(item.as_posix(), item.stat().st_size, item.stat().st_mtime_ns) for item in _below(_path(source))]
    return [source, hashlib.sha256(repr(files).encode()).hexdigest() if files else None]


def is_user_code(name: str) -> bool:
    """Whether a model is Python code or a program of the user, whose result can change although its weights do not."""
    return ":" in name or name.endswith(PROGRAM)


def _path(source: str) -> Path:
    """Return the path of a source; for ``nets.py:build``, the path of the file."""
    return Path(source.rpartition(":")[0] if ".py:" in source else source)


def _below(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
