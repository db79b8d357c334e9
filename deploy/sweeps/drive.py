"""The main loop of a sweep: start ready tasks on free nodes, and record what ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.core import interrupt
from deploy.sweeps.executor import Executor, Node, TaskEnd
from deploy.sweeps.journal import Journal
from deploy.sweeps.schedule import Schedule
from deploy.sweeps.task import Task

POLL_S = 0.2
MAX_TRIES = 3
"""Times that a task is started before losing its node counts as failure."""

Watch = Callable[[Task, str, str], None]
"""Receives task events: the task, its state, and a message or the reason of a failure. States: `STARTED`, `PROGRESS`,
``note``, ``warn``, `RETRY`, and those of `TaskOutcome`."""
STARTED, PROGRESS, RETRY = "begun", "doing", "again"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOutcome:
    """How a task ended.

    Attributes:
        state: ``done``; ``found``: the artifact existed; ``kept``: recorded by an earlier sweep; ``failed``;
            ``skipped``: a task that it needs failed.
        result: what `deploy.sweeps.job.do_task` returned, and ``fetched``, digests of the files that were sent to the
            node; for a failed benchmark ``saved``, records of its finished worker processes.
        reason: reason of ``failed`` and ``skipped``.
        node: where it ran; None if it did not run.
    """

    task: Task
    state: str
    result: Mapping[str, Any]
    reason: str = ""
    node: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the result of the task is available."""
        return self.state in ("done", "found", "kept")

    @property
    def seconds(self) -> float:
        """Duration in this sweep."""
        return float(self.result.get("seconds", 0.0)) if self.node else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "task": self.task.name,
            "kind": self.task.kind,
            "model": self.task.group,
            "machine": self.task.machine,
            "state": self.state,
            "reason": self.reason or None,
            "verdict": self.result.get("verdict"),
            "node": self.node,
            "fetched": len(self.result.get("fetched", ())),
            "seconds": self.seconds,
        }


class Drive:
    """Runs the tasks of a sweep, which are in topological order; ``again`` ignores the records of earlier sweeps."""

    def __init__(self, tasks: Sequence[Task], executor: Executor, journal: Journal, *, again: bool, watch: Watch):
        self._schedule = Schedule(tasks)
        self._executor, self._journal, self._again, self._watch = executor, journal, again, watch
        self._keys: dict[str, str] = {}
        self._tries: dict[str, int] = {}
        self._nodes: dict[str, Node] = {}
        self._saved: dict[str, list[str]] = {}
        self._shown: set[tuple[str, str]] = set()
        self.outcomes: dict[str, TaskOutcome] = {}

    def run(self) -> dict[str, TaskOutcome]:
        """Run until all tasks have ended; return their outcomes in the order in which they ended."""
        while not self._schedule.finished:
            interrupt.check()
            nodes = self._executor.nodes()
            self._nodes |= {node.name: node for node in nodes}
            for task in self._schedule.unplaceable(nodes):
                self._give_up(task, f"no node of the kind {task.machine or 'any'} is available.")
            for task, node in self._schedule.take(nodes):
                self._start(task, node)
            if self._schedule.running:
                self._poll()
            elif not self._schedule.finished:  # a lost node is still listed, or every task was recorded
                time.sleep(POLL_S)
        return self.outcomes

    def _start(self, task: Task, node: Node) -> None:
        made: dict[str, str] = {}
        for name in (*task.needs, *task.after):
            made |= self.outcomes[name].result.get("made", {})
        self._keys[task.name] = self._journal.key(task, made)
        recorded = not self._again and self._journal.applies_to(task)
        result = self._journal.find(self._keys[task.name]) if recorded else None
        if result is not None:
            self._end(TaskOutcome(task=task, state="kept", result=result), node)
            return
        self._watch(task, STARTED, node.name)
        self._executor.start(task, node)

    def _poll(self) -> None:
        for event in self._executor.poll(POLL_S):
            task = self._schedule.tasks[event.task]
            if task.name not in self._schedule.running:
                continue
            if isinstance(event, TaskEnd):
                self._ended(task, event)
                continue
            self._saved.setdefault(task.name, []).extend(event.message.get("saved", ()))
            for kind in (PROGRESS, "note", "warn"):
                if kind in event.message and (kind == PROGRESS or self._is_new(task, event.message[kind])):
                    self._watch(task, kind, event.message[kind])

    def _is_new(self, task: Task, text: str) -> bool:
        """Whether no task of the model has sent this text before."""
        message = (task.group, text)
        new = message not in self._shown
        self._shown.add(message)
        return new

    def _ended(self, task: Task, event: TaskEnd) -> None:
        node = self._nodes[event.node]
        if event.lost:
            self._tries[task.name] = self._tries.get(task.name, 0) + 1
            self._schedule.lost(task.name)
            if self._tries[task.name] >= MAX_TRIES:
                self._give_up(task, f"{event.reason} Gave up after {MAX_TRIES} tries.")
            else:
                self._watch(task, RETRY, event.reason)
            return
        if event.result is None:
            self._end(self._failure(task, event.reason, event.node), node)
            return
        result = event.result
        if result["state"] != "failed":
            self._journal.keep(task, self._keys[task.name], result)
        why = result.get("reason", "")
        self._end(TaskOutcome(task=task, state=result["state"], reason=why, result=result, node=event.node), node)

    def _end(self, outcome: TaskOutcome, node: Node) -> None:
        self._publish(outcome)
        for task in self._schedule.ended(outcome.task.name, node, succeeded=outcome.succeeded):
            self._skip(task)

    def _failure(self, task: Task, why: str, node: str | None = None) -> TaskOutcome:
        """Return the outcome of a failed task, with the records that it had saved."""
        saved = list(dict.fromkeys(self._saved.get(task.name, ())))
        return TaskOutcome(task=task, state="failed", reason=why, result={"saved": saved} if saved else {}, node=node)

    def _give_up(self, task: Task, why: str) -> None:
        self._publish(self._failure(task, why))
        for dependent in self._schedule.settle(task.name, succeeded=False):
            self._skip(dependent)

    def _skip(self, task: Task) -> None:
        failed = next(self.outcomes[name] for name in task.needs if not self.outcomes[name].succeeded)
        self._publish(TaskOutcome(task=task, state="skipped", reason=f"{failed.task.name}: {failed.reason}", result={}))

    def _publish(self, outcome: TaskOutcome) -> None:
        self.outcomes[outcome.task.name] = outcome
        self._watch(outcome.task, outcome.state, outcome.reason)
