"""The part that runs on a node of a Ray cluster: write the files, run the task, return the results."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from deploy.core.artifact import sha256
from deploy.core.lock import locked
from deploy.core.store import write_file
from deploy.sweeps.task import Job

STORE, WORK, CONTENTS = "artifacts", "work", "contents"
"""Folders of a sweep on a node: artifacts directory, working directory of tasks, and received files by digest."""


def _folder(token: str) -> Path:
    """Return the folder of this sweep on this node; its name has the node ID, since nodes may share a disk."""
    node = ray.get_runtime_context().get_node_id()[:16]
    return Path(tempfile.gettempdir()) / f"deploy-sweep-{token}" / node


def run_on_node(
    job: Job, name: str, work: Mapping[str, Any], files: Sequence[tuple[str, str, str]], blobs: Mapping[str, Any],
    token: str, mailbox: Any,
) -> dict[str, Any]:  # fmt: skip
    """Run a task with ``job`` on a node; the actor ``mailbox`` receives its messages.

    ``files`` are `STORE` or `WORK`, the path below it, and the SHA-256 digest of each file; ``blobs`` are references to
    file contents by digest, of which only the missing ones are fetched.

    Returns:
        ``result`` of the job, ``contents`` of the files that it names, and ``fetched``, the digests that were fetched.
    """
    folder = _folder(token)
    fetched = _write_files(folder, files, blobs)

    def notify(message: Mapping[str, Any]) -> None:
        sent = dict(message)
        if "saved" in sent:
            sent["contents"] = {path: (folder / STORE / path).read_bytes() for path in sent["saved"]}
        mailbox.put.remote(name, sent)

    (folder / WORK).mkdir(parents=True, exist_ok=True)
    with _working_directory(folder / WORK):
        result = job(work, folder / STORE, notify)
    contents = {path: (folder / STORE / path).read_bytes() for path in result.get("files", ())}
    return {"result": result, "contents": contents, "fetched": fetched}


def _write_files(folder: Path, files: Sequence[tuple[str, str, str]], blobs: Mapping[str, Any]) -> list[str]:
    """Write the files of a task, under a lock; return the digests that were fetched."""
    fetched: list[str] = []
    (folder / CONTENTS).mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for kind, path, digest in files:
            target, content = folder / kind / path, folder / CONTENTS / digest
            if target.is_file() and sha256(target) == digest:
                continue
            if not content.is_file():
                write_file(content, ray.get(blobs[digest]))
                fetched.append(digest)
            write_file(target, content.read_bytes())  # a copy, since symbolic links are refused on reading
    return fetched


@contextmanager
def _working_directory(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def clear(token: str) -> None:
    """Remove the folder of a sweep from this node."""
    shutil.rmtree(_folder(token), ignore_errors=True)


class Mailbox:
    """Actor that collects the messages of running tasks until the driver fetches them."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, dict[str, Any]]] = []

    def put(self, task: str, message: dict[str, Any]) -> None:
        """Add a message of a task."""
        self._messages.append((task, message))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Return task names and messages since the last call."""
        messages, self._messages = self._messages, []
        return messages
