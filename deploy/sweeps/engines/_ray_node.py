"""What happens on a node of a Ray cluster: files are laid out, the task is done, what came of it goes back."""

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
"""Folders of a sweep on a node: the artifacts directory, the one that tasks are done in, and what came, by digest."""


def _folder(token: str) -> Path:
    """The folder of this sweep on this node; several nodes may share a disk."""
    node = ray.get_runtime_context().get_node_id()[:16]
    return Path(tempfile.gettempdir()) / f"deploy-sweep-{token}" / node


def do_there(
    job: Job, name: str, work: Mapping[str, Any], places: Sequence[tuple[str, str, str]], blobs: Mapping[str, Any],
    token: str, board: Any,
) -> dict[str, Any]:  # fmt: skip
    """Do a task on a node.

    Args:
        job: does it.
        name: of the task.
        work: for ``job``.
        places: `STORE` or `WORK`, the path below it, and the digest of each file.
        blobs: references to contents, by digest; fetched where the node has not got them.
        token: of the sweep.
        board: takes what the task says.

    Returns:
        ``result`` of the job, ``contents`` of the files it names, and ``fetched``, digests that came over.
    """
    folder = _folder(token)
    fetched = _lay_out(folder, places, blobs)

    def say(message: Mapping[str, Any]) -> None:
        told = dict(message)
        if "kept" in told:
            told["contents"] = {path: (folder / STORE / path).read_bytes() for path in told["kept"]}
        board.say.remote(name, told)

    (folder / WORK).mkdir(parents=True, exist_ok=True)
    with _at(folder / WORK):
        result = job(work, folder / STORE, say)
    contents = {path: (folder / STORE / path).read_bytes() for path in result.get("files", ())}
    return {"result": result, "contents": contents, "fetched": fetched}


def _lay_out(folder: Path, places: Sequence[tuple[str, str, str]], blobs: Mapping[str, Any]) -> list[str]:
    """Put files where they belong, one task at a time; digests of contents that had to come over."""
    came: list[str] = []
    (folder / CONTENTS).mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for kind, path, digest in places:
            place, content = folder / kind / path, folder / CONTENTS / digest
            if place.is_file() and sha256(place) == digest:
                continue
            if not content.is_file():
                write_file(content, ray.get(blobs[digest]))
                came.append(digest)
            write_file(place, content.read_bytes())  # a copy: links are refused where files are read
    return came


@contextmanager
def _at(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def clear(token: str) -> None:
    """Remove what a sweep left on this node."""
    shutil.rmtree(_folder(token), ignore_errors=True)


class ProgressBoard:
    """Holds what running tasks say until it is fetched."""

    def __init__(self) -> None:
        self._said: list[tuple[str, dict[str, Any]]] = []

    def say(self, task: str, message: dict[str, Any]) -> None:
        """Hold a message of a task."""
        self._said.append((task, message))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Tasks and messages since the last call."""
        said, self._said = self._said, []
        return said
