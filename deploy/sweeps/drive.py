"""The loop of a sweep: what is ready goes to the engine, what comes back is written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.core import interrupt
from deploy.sweeps.journal import Journal
from deploy.sweeps.schedule import Schedule
from deploy.sweeps.task import Ended, Engine, Node, Task

POLL_S = 0.2
TRIES = 3
"""Nodes that a task may lose before it counts as failed."""

Watch = Callable[[Task, str, str], None]
"""Told of a task, of its state, and of what it is doing or why it failed. States: `BEGUN`, `DOING`, ``note``, ``warn``,
`AGAIN`, and those of `TaskOutcome`."""
BEGUN, DOING, AGAIN = "begun", "doing", "again"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOutcome:
    """How a task ended.

    Attributes:
        state: ``done``; ``found``, what it makes was there; ``kept``, an earlier sweep did it; ``failed``; ``skipped``,
            what it needs failed.
        why: of the last two.
        result: what `deploy.sweeps.job.do_task` gave, and ``fetched``, digests of files that an engine sent
            to the node for it; where it gave none, ``kept``, records of timings that had ended before.
        node: where it ran, if it did.
    """

    task: Task
    state: str
    result: Mapping[str, Any]
    why: str = ""
    node: str | None = None

    @property
    def well(self) -> bool:
        """What was asked for is there."""
        return self.state in ("done", "found", "kept")

    @property
    def seconds(self) -> float:
        """That it took in this sweep."""
        return float(self.result.get("seconds", 0.0)) if self.node else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "task": self.task.name,
            "kind": self.task.kind,
            "model": self.task.group,
            "machine": self.task.machine,
            "state": self.state,
            "why": self.why or None,
            "verdict": self.result.get("verdict"),
            "node": self.node,
            "fetched": len(self.result.get("fetched", ())),
            "seconds": self.seconds,
        }


class Drive:
    """Runs the tasks of a sweep.

    Args:
        tasks: each after those it waits for.
        engine: runs them.
        journal: of earlier sweeps.
        again: nothing of it counts.
        watch: told of everything.
    """

    def __init__(self, tasks: Sequence[Task], engine: Engine, journal: Journal, *, again: bool, watch: Watch) -> None:
        self._schedule = Schedule(tasks)
        self._engine, self._journal, self._again, self._watch = engine, journal, again, watch
        self._keys: dict[str, str] = {}
        self._tries: dict[str, int] = {}
        self._nodes: dict[str, Node] = {}
        self._kept: dict[str, list[str]] = {}
        self._heard: set[tuple[str, str]] = set()
        self.outcomes: dict[str, TaskOutcome] = {}

    def run(self) -> dict[str, TaskOutcome]:
        """Until everything has ended; outcomes by the names of tasks, in the order in which they ended.

        Raises:
            StorageError: what was done cannot be written down.
        """
        while not self._schedule.finished:
            interrupt.check()
            nodes = self._engine.nodes()
            self._nodes |= {node.name: node for node in nodes}
            for task in self._schedule.homeless(nodes):
                self._give_up(task, f"no {task.machine or 'node'} is there to run it on.")
            for task, node in self._schedule.take(nodes):
                self._begin(task, node)
            if self._schedule.running:
                self._listen()
            elif not self._schedule.finished:  # what is there is not known to be gone yet, or nothing had to be run
                time.sleep(POLL_S)
        return self.outcomes

    def _begin(self, task: Task, node: Node) -> None:
        made: dict[str, str] = {}
        for name in (*task.needs, *task.after):
            before = self.outcomes[name].result
            made |= before.get("made", {})
        self._keys[task.name] = self._journal.key(task, made)
        kept = not self._again and self._journal.tells(task)
        result = self._journal.find(self._keys[task.name]) if kept else None
        if result is not None:
            self._end(TaskOutcome(task=task, state="kept", result=result), node)
            return
        self._watch(task, BEGUN, node.name)
        self._engine.start(task, node)

    def _listen(self) -> None:
        for event in self._engine.poll(POLL_S):
            task = self._schedule.tasks[event.task]
            if task.name not in self._schedule.running:
                continue
            if isinstance(event, Ended):
                self._ended(task, event)
                continue
            self._kept.setdefault(task.name, []).extend(event.message.get("kept", ()))
            for kind in (DOING, "note", "warn"):
                if kind in event.message and (kind == DOING or self._new(task, event.message[kind])):
                    self._watch(task, kind, event.message[kind])

    def _new(self, task: Task, text: str) -> bool:
        """Whether no task of the model has said it."""
        said = (task.group, text)
        fresh = said not in self._heard
        self._heard.add(said)
        return fresh

    def _ended(self, task: Task, event: Ended) -> None:
        node = self._nodes[event.node]
        if event.lost:
            self._tries[task.name] = self._tries.get(task.name, 0) + 1
            self._schedule.lost(task.name)
            if self._tries[task.name] >= TRIES:
                self._give_up(task, f"{event.why} It was tried {TRIES} times.")
            else:
                self._watch(task, AGAIN, event.why)
            return
        if event.result is None:
            self._end(self._failed(task, event.why, event.node), node)
            return
        result = event.result
        if result["state"] != "failed":
            self._journal.keep(task, self._keys[task.name], result)
        why = result.get("why", "")
        self._end(TaskOutcome(task=task, state=result["state"], why=why, result=result, node=event.node), node)

    def _end(self, outcome: TaskOutcome, node: Node) -> None:
        self._tell(outcome)
        for never in self._schedule.ended(outcome.task.name, node, well=outcome.well):
            self._skip(never)

    def _failed(self, task: Task, why: str, node: str | None = None) -> TaskOutcome:
        """With what had come of it before: timings that had ended are kept."""
        kept = list(dict.fromkeys(self._kept.get(task.name, ())))
        return TaskOutcome(task=task, state="failed", why=why, result={"kept": kept} if kept else {}, node=node)

    def _give_up(self, task: Task, why: str) -> None:
        self._tell(self._failed(task, why))
        for never in self._schedule.settle(task.name, well=False):
            self._skip(never)

    def _skip(self, task: Task) -> None:
        failed = next(self.outcomes[name] for name in task.needs if not self.outcomes[name].well)
        self._tell(TaskOutcome(task=task, state="skipped", why=f"{failed.task.name}: {failed.why}", result={}))

    def _tell(self, outcome: TaskOutcome) -> None:
        self.outcomes[outcome.task.name] = outcome
        self._watch(outcome.task, outcome.state, outcome.why)
