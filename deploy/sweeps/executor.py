"""The interface of executors, which run the tasks of a sweep.

An executor is a module of ``deploy.sweeps.executors`` (or an entry point in this group) with
``open_executor(context: ExecutorContext) -> Executor``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deploy.core import registry
from deploy.core.errors import MissingPackageError, UnknownNameError
from deploy.core.extras import EXTRAS, require
from deploy.sweeps.task import Job, Task, TaskFiles

EXECUTORS = "deploy.sweeps.executors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A machine that runs tasks: the kinds of machines that it belongs to, and its CPU cores and GPUs for tasks."""

    name: str
    machines: frozenset[str] = frozenset()
    cpus: int = 1
    gpus: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMessage:
    """A message of a running task; `deploy.sweeps.task.Notify` lists its keys."""

    task: str
    message: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEnd:
    """The end of a task.

    Attributes:
        result: what the job returned; None if it did not return.
        reason: the reason if ``result`` is None; else empty.
        lost: the node is gone; the task can run on another one.
    """

    task: str
    node: str
    result: Mapping[str, Any] | None = None
    reason: str = ""
    lost: bool = False


class Executor(Protocol):
    """Runs tasks on nodes."""

    def nodes(self) -> Sequence[Node]:
        """Return the nodes that are available now."""

    def start(self, task: Task, node: Node) -> None:
        """Start a task on a node; `poll` reports its end."""

    def poll(self, timeout_s: float) -> Sequence[TaskMessage | TaskEnd]:
        """Return the events since the last call; wait up to ``timeout_s`` seconds for the first one."""

    def close(self) -> None:
        """Stop running tasks and release all resources."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorContext:
    """What an executor needs to know of the sweep.

    Attributes:
        worker: class of the object in a worker process, ``module:Class``; see `deploy.sweeps.executors.local`.
        job: runs a task in the calling process, for executors with their own processes.
        files: returns the files that a task reads.
        machines: resource of the nodes of each kind of machine.
        jobs: maximum number of concurrent tasks on this machine, benchmarks aside.
    """

    root: Path
    worker: str
    job: Job
    files: Callable[[Task], TaskFiles]
    machines: Mapping[str, str]
    jobs: int = 1
    address: str = "auto"


def check_executor(name: str) -> None:
    """Check that an executor exists and that its package is installed, without importing it.

    Raises:
        UnknownNameError, MissingPackageError: it does not, or it is not.
    """
    known = registry.names(EXECUTORS)
    if name not in known:
        raise UnknownNameError("engine", name, known, f"known: {', '.join(known)}")
    if name in EXTRAS:
        require(name)


def start_executor(name: str, context: ExecutorContext) -> Executor:
    """Start an executor by its name.

    Raises:
        UnknownNameError: no executor has this name.
        MissingPackageError: its package is not installed.
        UsageError: it cannot run this sweep.
    """
    check_executor(name)
    try:
        module = registry.load(EXECUTORS, name, "engine")
    except ModuleNotFoundError as exc:  # of a third party
        package = exc.name or name
        raise MissingPackageError(package, f"the sweep engine {name}", package) from exc
    executor: Executor = module.open_executor(context)
    return executor
