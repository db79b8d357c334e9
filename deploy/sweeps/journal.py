"""Records of finished tasks in the artifacts directory: a sweep continues from them and estimates durations."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from typing import Any

from deploy.core import records
from deploy.core.artifact import Artifact
from deploy.core.environment import now, versions
from deploy.core.errors import ArtifactError
from deploy.core.progress import Progress
from deploy.core.store import Store, json_files
from deploy.sweeps.task import Task, fingerprint_of, is_user_code

KIND, SCHEMA = "task", 2
FOLDER = records.FOLDERS[3]
NOT_IN_KEY = ("again",)
"""Fields of a task's work that do not affect its result."""


class Journal:
    """The records of tasks in an artifacts directory; a damaged record is ignored with a warning."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._entries: dict[str, dict[str, Any]] = {}
        self._paces: dict[tuple[str | None, ...], list[float]] = {}
        for path in json_files(store.root / FOLDER):
            try:
                entry = records.load(path, KIND, SCHEMA)
            except ArtifactError as exc:
                progress.warn(f"record ignored: {exc.message}")
                continue
            self._add(entry)

    def key(self, task: Task, made: Mapping[str, str]) -> str:
        """Return a digest of everything that determines the result of a task, 16 hexadecimal digits.

        The artifacts that the task starts from are in ``made``: their digests by path.
        """
        work = {name: value for name, value in task.work.items() if name not in NOT_IN_KEY}
        return records.key_of(
            {
                "work": work,
                "machine": task.machine,
                "made": dict(sorted(made.items())),
                "read": [fingerprint_of(source) for source in task.sources],
                "trained": self._checkpoints(task),
                "versions": versions(),
            }
        )

    def find(self, key: str) -> Mapping[str, Any] | None:
        """Return the recorded result of a task if all files of this result still exist unchanged."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        result: Mapping[str, Any] = entry["result"]
        try:
            for path, digest in result["made"].items():
                artifact = Artifact.open(self._store.root / path)
                artifact.verify()
                if artifact.manifest.files[0].sha256 != digest:
                    return None
            for path in map(self._store.root.joinpath, result["files"]):
                if records.is_record(path):
                    records.check(path)
        except ArtifactError:
            return None
        return result

    @staticmethod
    def applies_to(task: Task) -> bool:
        """Whether a record can replace a task. Exports of user code always run, since the code may have changed."""
        return task.kind != "export" or not is_user_code(task.work["request"]["name"])

    def keep(self, task: Task, key: str, result: Mapping[str, Any]) -> None:
        """Record the result of a task."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", task.name)[:100]
        entry = {
            "key": key,
            "task": task.name,
            "group": task.group,
            "machine": task.machine,
            "of": task.kind,
            "units": task.units,
            "result": dict(result),
            "created": now(),
        }
        self._add(entry)
        records.save(self._store.root / FOLDER / f"{slug}.{key}.json", KIND, SCHEMA, entry)

    def estimate(self, task: Task) -> float | None:
        """Return the expected duration of a task in seconds; None if no similar task was recorded.

        The median of earlier tasks of the same kind, machine and model; else of the same kind and machine; else of the
        same kind. Tasks that found their artifact or resumed a benchmark do not count.
        """
        closest = (task.kind, task.machine, task.group), (task.kind, task.machine), (task.kind,)
        paces = next((self._paces[name] for name in closest if name in self._paces), None)
        return None if paces is None else task.units * statistics.median(paces)

    def _add(self, entry: dict[str, Any]) -> None:
        self._entries[entry["key"]] = entry
        if entry["result"]["state"] == "done" and not entry["result"].get("resumed"):
            pace = float(entry["result"]["seconds"]) / int(entry["units"])
            kind, machine, group = entry["of"], entry["machine"], entry["group"]
            for name in ((kind, machine, group), (kind, machine), (kind,)):
                self._paces.setdefault(name, []).append(pace)

    def _checkpoints(self, task: Task) -> list[str]:
        """Return the digests of the model's checkpoints: a new checkpoint changes the export."""
        bare = task.group.rpartition("/")[2]
        checkpoints = [item for item in self._store.artifacts(bare) if item.manifest.format == "safetensors"]
        return sorted(item.manifest.files[0].sha256 for item in checkpoints)
