"""Which task begins next, and where: list scheduling by the longest way that is still to go.

A task is ready when those it waits for have ended. Ready tasks are taken in the order of what depends on them: the sum
of seconds from a task to the end of the longest chain behind it. On m equal nodes that do one task at a time this is
within (2 - 1/m) times the best possible (R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969); how near it
comes where nodes differ, ``docs/scaling.md`` tells.
"""

from __future__ import annotations

import bisect
import heapq
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deploy.sweeps.task import Node, Task

GUESS_S = 30.0
"""Seconds of a task of which nothing is known, where nothing is known of any."""


@dataclass(slots=True)
class _Load:
    """What runs on a node."""

    cpus: int = 0
    gpus: int = 0
    tasks: set[str] = field(default_factory=set)
    closed: bool = False


Wants = tuple[str, int, int, bool]
"""What tasks must have in common to find a place on the same nodes: machine, cores, GPUs, alone."""


class Schedule:
    """The tasks of a sweep, from waiting to ended.

    Args:
        tasks: each after those that it waits for.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks: Mapping[str, Task] = {task.name: task for task in tasks}
        self._behind: dict[str, list[str]] = {task.name: [] for task in tasks}
        self._before: dict[str, set[str]] = {}
        for task in tasks:
            self._before[task.name] = {*task.needs, *task.after}
            for name in self._before[task.name]:
                self._behind[name].append(task.name)
        self._rank = self._ranks(tasks)
        self._ready: dict[Wants, list[tuple[float, str]]] = {}
        self._load: dict[str, _Load] = {}
        self._where: dict[str, str] = {}
        self._home: dict[str, set[str]] = {}
        for task in tasks:
            if not self._before[task.name]:
                self._add(task.name)

    def _ranks(self, tasks: Sequence[Task]) -> dict[str, float]:
        known: dict[str, list[float]] = {}
        for task in tasks:
            if task.seconds is not None:
                known.setdefault(task.kind, []).append(task.seconds)
        usual = {kind: statistics.median(values) for kind, values in known.items()}
        rank: dict[str, float] = {}
        for task in reversed(tasks):
            own = usual.get(task.kind, GUESS_S) if task.seconds is None else task.seconds
            rank[task.name] = own + max((rank[name] for name in self._behind[task.name]), default=0.0)
        return rank

    def _add(self, name: str) -> None:
        bisect.insort(self._ready.setdefault(_wants(self.tasks[name]), []), (-self._rank[name], name))

    def _remove(self, name: str) -> None:
        """Take it from the ready ones, if it is one."""
        wants, entry = _wants(self.tasks[name]), (-self._rank[name], name)
        queue = self._ready.get(wants, [])
        place = bisect.bisect_left(queue, entry)
        if queue[place : place + 1] == [entry]:
            del queue[place]
            if not queue:
                del self._ready[wants]

    @property
    def running(self) -> Mapping[str, str]:
        """Names of tasks that run, with their nodes."""
        return self._where

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing can begin."""
        return not self._ready and not self._where

    def take(self, nodes: Sequence[Node]) -> list[tuple[Task, Node]]:
        """Tasks that begin now, each with its node.

        A timing that finds every node of its kind busy keeps one of them free of new work, and so is not overtaken
        for ever.
        """
        loads = {node.name: self._load.setdefault(node.name, _Load()) for node in nodes}
        open_nodes = [node for node in nodes if not loads[node.name].closed and self._room(node, loads[node.name])]
        taken: list[tuple[Task, Node]] = []
        heads = [(queue[0], wants, 0) for wants, queue in self._ready.items()]
        heapq.heapify(heads)
        while heads and open_nodes:
            (_, name), wants, place = heapq.heappop(heads)
            task = self.tasks[name]
            fitting = [node for node in open_nodes if _may(task, node)]
            able = [node for node in fitting if self._fits(task, node, loads[node.name])]
            if able:
                node = min(able, key=lambda item: self._preference(task, item, loads[item.name]))
                self._remove(name)
                self._begin(task, node, loads[node.name])
                taken.append((task, node))
            elif task.exclusive and fitting:
                node = min(fitting, key=lambda item: (len(loads[item.name].tasks), item.name))
                place += 1
            else:  # what wants the same finds no place either
                continue
            if not able or not self._room(node, loads[node.name]):
                open_nodes.remove(node)
            queue = self._ready.get(wants, [])
            if place < len(queue):
                heapq.heappush(heads, (queue[place], wants, place))
        return taken

    def _preference(self, task: Task, node: Node, load: _Load) -> tuple[bool, float, str]:
        """The node that has the files already, then the one with the most room."""
        return node.name not in self._home.get(task.group, ()), load.cpus / node.cpus, node.name

    @staticmethod
    def _room(node: Node, load: _Load) -> bool:
        return load.cpus < node.cpus

    @staticmethod
    def _fits(task: Task, node: Node, load: _Load) -> bool:
        if task.exclusive and load.tasks:
            return False
        return load.cpus + share(task, node) <= node.cpus and load.gpus + task.gpus <= node.gpus

    def _begin(self, task: Task, node: Node, load: _Load) -> None:
        load.cpus += node.cpus if task.exclusive else share(task, node)
        load.gpus += task.gpus
        load.tasks.add(task.name)
        self._where[task.name] = node.name
        self._home.setdefault(task.group, set()).add(node.name)

    def _leave(self, task: Task, node: Node | None) -> None:
        load = self._load[self._where.pop(task.name)]
        load.tasks.discard(task.name)
        if node is not None:
            load.cpus -= node.cpus if task.exclusive else share(task, node)
            load.gpus -= task.gpus

    def ended(self, name: str, node: Node, *, well: bool) -> list[Task]:
        """A task ended.

        Returns:
            Those that can never begin, since they needed it.
        """
        self._leave(self.tasks[name], node)
        return self.settle(name, well=well)

    def settle(self, name: str, *, well: bool) -> list[Task]:
        """A task is done with, without having run here; returns as `ended`."""
        self._remove(name)
        never: list[Task] = []
        for follower in self._behind[name]:
            if follower not in self._before:
                continue
            if not well and name in self.tasks[follower].needs:
                del self._before[follower]
                never += [self.tasks[follower], *self.settle(follower, well=False)]
                continue
            self._before[follower].discard(name)
            if not self._before[follower]:
                self._add(follower)
        return never

    def lost(self, name: str) -> None:
        """The node of a task is gone: it is ready again, for another."""
        task = self.tasks[name]
        node = self._where[name]
        self._leave(task, None)
        self._load[node].closed = True
        for homes in self._home.values():
            homes.discard(node)
        self._add(name)

    def homeless(self, nodes: Sequence[Node]) -> list[Task]:
        """Ready tasks that no node, busy or not, can ever do; one that was lost does nothing more."""
        there = [node for node in nodes if node.name not in self._load or not self._load[node.name].closed]
        found: list[Task] = []
        for queue in self._ready.values():
            if not any(_may(self.tasks[queue[0][1]], node) for node in there):
                found += [self.tasks[name] for _, name in queue]
        return found


def _wants(task: Task) -> Wants:
    return task.machine or "", task.cpus, task.gpus, task.exclusive


def share(task: Task, node: Node) -> int:
    """Cores of a node that a task takes."""
    return min(task.cpus or node.cpus, node.cpus)


def _may(task: Task, node: Node) -> bool:
    """Whether a node that has nothing else to do can do a task."""
    return (task.machine is None or task.machine in node.machines) and task.gpus <= node.gpus
