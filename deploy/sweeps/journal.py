"""What earlier sweeps did, on disk: a record a task, by which a sweep goes on, and estimates what is still to come."""

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
from deploy.core.store import Store
from deploy.sweeps.files import given, is_own, state_of
from deploy.sweeps.plan import units
from deploy.sweeps.task import Task

KIND, SCHEMA = "task", 1
FOLDER = records.SWEEPS
LEFT_OUT = ("again",)
"""Of a task's work: what does not decide what comes of it."""


class Journal:
    """The records of tasks in an artifacts directory.

    Args:
        store: the artifacts directory.
        progress: warned of records that are damaged, which count as not there.
    """

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._entries: dict[str, dict[str, Any]] = {}
        self._paces: dict[tuple[str | None, ...], list[float]] = {}
        for path in sorted((store.root / FOLDER).glob("*.json")):
            try:
                entry = records.load(path, KIND, SCHEMA)
            except ArtifactError as exc:
                progress.warn(f"left out: {exc.message}")
                continue
            self._take(entry)

    def key(self, task: Task, made: Mapping[str, str]) -> str:
        """Sixteen hexadecimal digits of all that decides what comes of a task.

        Args:
            task: the task.
            made: digests of the artifacts that it starts from, by path.
        """
        work = {name: value for name, value in task.work.items() if name not in LEFT_OUT}
        return records.key_of(
            {
                "work": work,
                "machine": task.machine,
                "made": dict(sorted(made.items())),
                "read": [state_of(text) for text in given(task)],
                "trained": self._trained(task),
                "versions": versions(),
            }
        )

    def find(self, key: str) -> Mapping[str, Any] | None:
        """The result of a task that was done, if all that came of it is still there as it was, to the byte."""
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
    def tells(task: Task) -> bool:
        """Whether a record can tell what comes of a task: not of exporting a user's code, which may have changed."""
        return task.kind != "export" or not is_own(task.work["request"]["name"])

    def keep(self, task: Task, key: str, result: Mapping[str, Any]) -> None:
        """Write down that a task was done.

        Raises:
            StorageError: the disk refused.
        """
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", task.name)[:100]
        content: dict[str, Any] = {
            "key": key,
            "task": task.name,
            "group": task.group,
            "machine": task.machine,
            "of": task.kind,
        }
        content |= {"units": units(task), "result": dict(result), "created": now()}
        self._take(content)
        records.save(self._store.root / FOLDER / f"{slug}.{key}.json", KIND, SCHEMA, content)

    def estimate(self, task: Task) -> float | None:
        """Seconds that a task may take: as earlier ones of its model, or of its kind; None where there was none.

        What was found or went on from records took no time worth knowing, and does not count.
        """
        closest = (task.kind, task.machine, task.group), (task.kind, task.machine), (task.kind,)
        known = next((self._paces[name] for name in closest if name in self._paces), None)
        return None if known is None else units(task) * statistics.median(known)

    def _take(self, entry: dict[str, Any]) -> None:
        self._entries[entry["key"]] = entry
        if entry["result"]["state"] == "done" and not entry["result"].get("resumed"):
            pace = float(entry["result"]["seconds"]) / int(entry["units"])
            kind, machine, group = entry["of"], entry["machine"], entry["group"]
            for name in ((kind, machine, group), (kind, machine), (kind,)):
                self._paces.setdefault(name, []).append(pace)

    def _trained(self, task: Task) -> list[str]:
        """Digests of the checkpoints of a model: newer ones make another export."""
        bare = task.group.rpartition("/")[2]
        found = [item for item in self._store.artifacts(bare) if item.manifest.format == "safetensors"]
        return sorted(item.manifest.files[0].sha256 for item in found)
