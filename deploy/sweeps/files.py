"""Files that the tasks of a sweep read: what an engine sends along, and what a record of a task depends on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from deploy.core.store import Store
from deploy.support.lookup import names_of
from deploy.sweeps.task import Files, Task

PROGRAM = ".pt2"


def is_own(name: str) -> bool:
    """Whether a model is a user's code or program: what it computes can change without a change of any weights."""
    return ":" in name or name.endswith(PROGRAM)


def given(task: Task) -> tuple[str, ...]:
    """What a task was told to read: a name or a path each."""
    request = task.work["request"]
    words = (request["name"], request["weights"], task.work.get("calib"), task.work.get("data"))
    return tuple(text for text in words if text)


def _path(text: str) -> Path:
    """The path that a text names, of ``nets.py:build`` the file."""
    return Path(text.rpartition(":")[0] if ".py:" in text else text)


def _below(path: Path) -> list[Path]:
    """The file, or all files of the folder; none where there is nothing."""
    return [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())


def files_of(task: Task, store: Store) -> Files:
    """All artifacts of the model, its timings so far, and files that are named relative to here.

    Those that are named by an absolute path are every node's own.
    """
    names = {task.group, task.group.rpartition("/")[2]}
    own = [item for item in store.artifacts() if not names.isdisjoint(names_of(item.manifest))]
    artifacts = [path for item in own for path in item.paths]
    if task.kind == "bench":
        for folder in sorted({item.path.parent for item in own}):
            artifacts += sorted((folder / "bench").glob("*.json"))
    paths = [path for path in map(_path, given(task)) if not path.is_absolute() and ".." not in path.parts]
    return Files(artifacts=artifacts, others=[item for path in paths for item in _below(path)])


def state_of(text: str) -> list[Any]:
    """What can be told of a path in little time: every file below it with its size and the time of its last change."""
    files = [(item.as_posix(), item.stat().st_size, item.stat().st_mtime_ns) for item in _below(_path(text))]
    return [text, hashlib.sha256(repr(files).encode()).hexdigest() if files else None]
