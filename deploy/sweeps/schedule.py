"""Which task starts next, and where: list scheduling by critical path.

A task is ready when the tasks it waits for have ended. Ready tasks start in the order of their critical path: the total
duration of the longest chain of tasks from here to the end. On m equal nodes that run one task at a time, the total
time is within (2 - 1/m) of the optimum (R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969).
``docs/scaling.md`` has measurements for nodes of different kinds.
"""

from __future__ import annotations

import bisect
import heapq
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deploy.sweeps.executor import Node
from deploy.sweeps.task import Task

DEFAULT_S = 30.0
"""Assumed duration of a task if none of its kind has an estimate."""


@dataclass(slots=True)
class _Load:
    """What runs on a node; a closed node gets no more tasks."""

    cpus: int = 0
    gpus: int = 0
    tasks: set[str] = field(default_factory=set)
    closed: bool = False


Demand = tuple[str, int, int, bool]
"""Machine, cores, GPUs, exclusive: tasks with the same demand fit on the same nodes."""


class Schedule:
    """The state of all tasks of a sweep, given in topological order: waiting, ready, running or ended."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks: Mapping[str, Task] = {task.name: task for task in tasks}
        self._dependents: dict[str, list[str]] = {task.name: [] for task in tasks}
        self._waits_for: dict[str, set[str]] = {}
        for task in tasks:
            self._waits_for[task.name] = {*task.needs, *task.after}
            for name in self._waits_for[task.name]:
                self._dependents[name].append(task.name)
        self._rank = self._ranks(tasks)
        self._ready: dict[Demand, list[tuple[float, str]]] = {}
        self._load: dict[str, _Load] = {}
        self._node_of: dict[str, str] = {}
        self._homes: dict[str, set[str]] = {}
        for task in tasks:
            if not self._waits_for[task.name]:
                self._add(task.name)

    def _ranks(self, tasks: Sequence[Task]) -> dict[str, float]:
        known: dict[str, list[float]] = {}
        for task in tasks:
            if task.seconds is not None:
                known.setdefault(task.kind, []).append(task.seconds)
        typical = {kind: statistics.median(values) for kind, values in known.items()}
        rank: dict[str, float] = {}
        for task in reversed(tasks):
            seconds = typical.get(task.kind, DEFAULT_S) if task.seconds is None else task.seconds
            rank[task.name] = seconds + max((rank[name] for name in self._dependents[task.name]), default=0.0)
        return rank

    def _add(self, name: str) -> None:
        bisect.insort(self._ready.setdefault(_demand(self.tasks[name]), []), (-self._rank[name], name))

    def _remove(self, name: str) -> None:
        demand, entry = _demand(self.tasks[name]), (-self._rank[name], name)
        queue = self._ready.get(demand, [])
        place = bisect.bisect_left(queue, entry)
        if queue[place : place + 1] == [entry]:
            del queue[place]
            if not queue:
                del self._ready[demand]

    @property
    def running(self) -> Mapping[str, str]:
        """Node of each running task, by task name."""
        return self._node_of

    @property
    def finished(self) -> bool:
        """Whether no task is running or ready."""
        return not self._ready and not self._node_of

    def take(self, nodes: Sequence[Node]) -> list[tuple[Task, Node]]:
        """Return the tasks to start now, each with its node, and mark them as running.

        An exclusive task that finds all its nodes busy reserves one of them, which gets no new tasks. Otherwise
        smaller tasks could delay it forever.
        """
        loads = {node.name: self._load.setdefault(node.name, _Load()) for node in nodes}
        free_nodes = [node for node in nodes if not loads[node.name].closed and self._has_room(node, loads[node.name])]
        started: list[tuple[Task, Node]] = []
        heads = [(queue[0], demand, 0) for demand, queue in self._ready.items()]
        heapq.heapify(heads)
        while heads and free_nodes:
            (_, name), demand, place = heapq.heappop(heads)
            task = self.tasks[name]
            fitting = [node for node in free_nodes if _can_run(task, node)]
            available = [node for node in fitting if self._fits(task, node, loads[node.name])]
            if available:
                node = min(available, key=lambda item: self._preference(task, item, loads[item.name]))
                self._remove(name)
                self._start(task, node, loads[node.name])
                started.append((task, node))
            elif task.exclusive and fitting:
                node = min(fitting, key=lambda item: (len(loads[item.name].tasks), item.name))
                place += 1
            else:  # other tasks with this demand do not fit either
                continue
            if not available or not self._has_room(node, loads[node.name]):
                free_nodes.remove(node)
            queue = self._ready.get(demand, [])
            if place < len(queue):
                heapq.heappush(heads, (queue[place], demand, place))
        return started

    def _preference(self, task: Task, node: Node, load: _Load) -> tuple[bool, float, str]:
        """Prefer nodes that have the files of the model, then nodes with little load."""
        return node.name not in self._homes.get(task.group, ()), load.cpus / node.cpus, node.name

    @staticmethod
    def _has_room(node: Node, load: _Load) -> bool:
        return load.cpus < node.cpus

    @staticmethod
    def _fits(task: Task, node: Node, load: _Load) -> bool:
        if task.exclusive and load.tasks:
            return False
        return load.cpus + share(task, node) <= node.cpus and load.gpus + task.gpus <= node.gpus

    def _start(self, task: Task, node: Node, load: _Load) -> None:
        load.cpus += node.cpus if task.exclusive else share(task, node)
        load.gpus += task.gpus
        load.tasks.add(task.name)
        self._node_of[task.name] = node.name
        self._homes.setdefault(task.group, set()).add(node.name)

    def _release(self, task: Task, node: Node | None) -> None:
        load = self._load[self._node_of.pop(task.name)]
        load.tasks.discard(task.name)
        if node is not None:
            load.cpus -= node.cpus if task.exclusive else share(task, node)
            load.gpus -= task.gpus

    def ended(self, name: str, node: Node, *, succeeded: bool) -> list[Task]:
        """Mark a running task as ended; return the tasks that can never start because they need it and it failed."""
        self._release(self.tasks[name], node)
        return self.settle(name, succeeded=succeeded)

    def settle(self, name: str, *, succeeded: bool) -> list[Task]:
        """Mark a task that is not running as ended; return the same as `ended`."""
        self._remove(name)
        blocked: list[Task] = []
        for dependent in self._dependents[name]:
            if dependent not in self._waits_for:
                continue
            if not succeeded and name in self.tasks[dependent].needs:
                del self._waits_for[dependent]
                blocked += [self.tasks[dependent], *self.settle(dependent, succeeded=False)]
                continue
            self._waits_for[dependent].discard(name)
            if not self._waits_for[dependent]:
                self._add(dependent)
        return blocked

    def lost(self, name: str) -> None:
        """Mark the node of a task as gone and the task as ready again."""
        task = self.tasks[name]
        node = self._node_of[name]
        self._release(task, None)
        self._load[node].closed = True
        for homes in self._homes.values():
            homes.discard(node)
        self._add(name)

    def unplaceable(self, nodes: Sequence[Node]) -> list[Task]:
        """Return the ready tasks that fit on no node, busy or idle; nodes that were lost do not count."""
        present = [node for node in nodes if node.name not in self._load or not self._load[node.name].closed]
        unplaceable: list[Task] = []
        for queue in self._ready.values():
            if not any(_can_run(self.tasks[queue[0][1]], node) for node in present):
                unplaceable += [self.tasks[name] for _, name in queue]
        return unplaceable


def _demand(task: Task) -> Demand:
    return task.machine or "", task.cpus, task.gpus, task.exclusive


def share(task: Task, node: Node) -> int:
    """Return the CPU cores of a node that a task takes."""
    return min(task.cpus or node.cpus, node.cpus)


def _can_run(task: Task, node: Node) -> bool:
    return (task.machine is None or task.machine in node.machines) and task.gpus <= node.gpus
