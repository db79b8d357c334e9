"""What is done in a sweep, where it can be done, and what an engine tells of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Work = Mapping[str, Any]
"""Plain values: all that a task needs to know, wherever it runs."""

Say = Callable[[Mapping[str, Any]], None]
"""Takes what a task has to say while it runs: ``doing``, ``note``, ``warn``, or ``kept``, files that are ready."""

Job = Callable[[Work, Path, Say], dict[str, Any]]
"""Does a task: its work, the artifacts directory there, and whom to tell; gives what came of it, plain values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One piece of work.

    Attributes:
        name: tells it from the others.
        kind: ``export``, ``quantize``, ``build``, ``evaluate`` or ``bench``.
        group: the model it is of: what shares a group shares files.
        needs: tasks that must have ended well before.
        after: tasks that must have ended, well or not.
        machine: the kind of machine it must run on; None for any.
        exclusive: nothing else runs on its node meanwhile.
        cpus: cores it takes of a node; 0 for all of them.
        gpus: likewise; none by default.
        seconds: what it is expected to take; None where nothing is known.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A machine that can do tasks.

    Attributes:
        machines: kinds of machines that it is of.
        cpus, gpus: that tasks can take of it.
    """

    name: str
    machines: frozenset[str] = frozenset()
    cpus: int = 1
    gpus: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A running task said something."""

    task: str
    message: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A task ended.

    Attributes:
        result: what the job gave; None where it could not run to its end.
        why: of that; empty otherwise.
        lost: its node is gone, so that it may run on another.
        node: where it ran.
    """

    task: str
    node: str
    result: Mapping[str, Any] | None = None
    why: str = ""
    lost: bool = False


class Engine(Protocol):
    """What runs tasks."""

    def nodes(self) -> Sequence[Node]:
        """The nodes that are there now."""

    def start(self, task: Task, node: Node) -> None:
        """Begin a task on a node; its end is told by `poll`."""

    def poll(self, timeout_s: float) -> Sequence[Said | Ended]:
        """What happened since the last call; waits for something, so long at the most."""

    def close(self) -> None:
        """End what runs, and free everything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Files that a task reads, for engines whose nodes have disks of their own.

    Attributes:
        artifacts: below the artifacts directory, which every node has one of.
        others: below the present directory; they lie at the same place below that of the task.
    """

    artifacts: Sequence[Path] = ()
    others: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What an engine is given.

    Attributes:
        root: the artifacts directory here.
        worker: class whose method ``run`` does a task, ``module:Class``, for engines that start processes; see
            `deploy.sweeps.engines.local`.
        job: does a task in this process, for engines that have processes of their own.
        files: what a task reads.
        machines: the resource that nodes carry, by kind of machine.
        jobs: tasks that are not timings may run at a time on this machine.
        address: of the cluster.
    """

    root: Path
    worker: str
    job: Job
    files: Callable[[Task], Files]
    machines: Mapping[str, str]
    jobs: int = 1
    address: str = "auto"
