"""Run tasks on this machine in worker processes; an idle worker is reused for the next task.

The worker is a remote object (`deploy.core.remote`) with a method ``run(arrays, work, root)``. If a worker dies, its
task fails with the reason and the worker is replaced.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deploy.core.environment import usable_cores
from deploy.core.errors import DeployError, UsageError
from deploy.core.remote import Remote
from deploy.support.cuda_driver import gpus
from deploy.sweeps.executor import Executor, ExecutorContext, Node, TaskEnd, TaskMessage
from deploy.sweeps.task import Task

HERE = "here"
GRACE_S = 10.0
"""Time that a worker has to discard partial results."""
THREADS = "OMP_NUM_THREADS"


class LocalExecutor:
    """Runs tasks in worker processes on this machine, which must be of the only kind in the sweep."""

    def __init__(self, context: ExecutorContext) -> None:
        if len(context.machines) > 1:
            raise UsageError(
                f"the sweep has {len(context.machines)} kinds of machines: {', '.join(context.machines)}.",
                "use --engine ray to run it on a cluster",
            )
        self._context = context
        self._events: queue.SimpleQueue[TaskMessage | TaskEnd] = queue.SimpleQueue()
        self._idle: list[Remote] = []
        self._busy: dict[str, tuple[Remote, threading.Thread]] = {}
        self._closing = False

    def nodes(self) -> Sequence[Node]:
        """Return this machine, with one core per concurrent task."""
        kinds = frozenset(self._context.machines)
        return [Node(name=HERE, machines=kinds, cpus=self._context.jobs, gpus=len(gpus()))]

    def start(self, task: Task, node: Node) -> None:
        """Start a task in a worker process."""
        worker = self._idle.pop() if self._idle else self._worker()
        thread = threading.Thread(target=self._run, args=(task, worker), daemon=True)
        self._busy[task.name] = (worker, thread)
        thread.start()

    def _worker(self) -> Remote:
        environment = dict(os.environ)
        if self._context.jobs > 1:
            environment[THREADS] = str(max(1, usable_cores() // self._context.jobs))
        return Remote(self._context.worker, name="sweep worker", environment=environment)

    def _run(self, task: Task, worker: Remote) -> None:
        def listen(message: Mapping[str, Any]) -> None:
            self._events.put(TaskMessage(task=task.name, message=message))

        try:
            reply, _ = worker.call("run", listener=listen, work=dict(task.work), root=str(self._context.root))
        except DeployError as exc:
            if not self._closing:
                self._events.put(TaskEnd(task=task.name, node=HERE, reason=exc.message))
            return
        self._events.put(TaskEnd(task=task.name, node=HERE, result=reply))

    def poll(self, timeout_s: float) -> Sequence[TaskMessage | TaskEnd]:
        """Return the events since the last call."""
        events: list[TaskMessage | TaskEnd] = []
        try:
            events.append(self._events.get(timeout=timeout_s))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            pass
        for event in events:
            if isinstance(event, TaskEnd):
                worker, thread = self._busy.pop(event.task)
                thread.join()
                if worker.dead:
                    worker.close()
                else:
                    self._idle.append(worker)
        return events

    def close(self) -> None:
        """Stop the workers; partial results are discarded."""
        self._closing = True
        for worker, thread in self._busy.values():
            worker.terminate(GRACE_S)
            thread.join()
        for worker in self._idle:
            worker.close()


open_executor: Callable[[ExecutorContext], Executor] = LocalExecutor
