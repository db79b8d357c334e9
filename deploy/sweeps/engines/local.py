"""This machine: tasks in processes that live on from one to the next, timings alone.

The worker is a remote object (`deploy.core.remote`) with a method ``run(arrays, work, root)``. A worker that dies ends
its task, with the reason, and is replaced.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.core.environment import usable_cores
from deploy.core.errors import DeployError, UsageError
from deploy.core.remote import Remote
from deploy.support.cuda_driver import gpus
from deploy.sweeps.task import Context, Ended, Engine, Node, Said, Task

HERE = "here"
GRACE_S = 10.0
"""Seconds that a worker has to undo what is half done."""
THREADS = "OMP_NUM_THREADS"


class Local:
    """See the module.

    Args:
        context: what every engine is given.

    Raises:
        UsageError: the sweep is over several kinds of machines; this is one.
    """

    def __init__(self, context: Context) -> None:
        if len(context.machines) > 1:
            raise UsageError(
                f"this is one machine, and the sweep is over {len(context.machines)} kinds: "
                f"{', '.join(context.machines)}.",
                "--engine ray runs it on a cluster",
            )
        self._context = context
        self._events: queue.SimpleQueue[Said | Ended] = queue.SimpleQueue()
        self._idle: list[Remote] = []
        self._busy: dict[str, tuple[Remote, threading.Thread]] = {}
        self._closing = False

    def nodes(self) -> Sequence[Node]:
        """This machine, with a core for each task that may run at a time."""
        kinds = frozenset(self._context.machines)
        return [Node(name=HERE, machines=kinds, cpus=self._context.jobs, gpus=len(gpus()))]

    def start(self, task: Task, node: Node) -> None:
        """Begin a task in a worker."""
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
            self._events.put(Said(task=task.name, message=message))

        try:
            reply, _ = worker.call("run", listener=listen, work=dict(task.work), root=str(self._context.root))
        except DeployError as exc:
            if not self._closing:
                self._events.put(Ended(task=task.name, node=HERE, why=exc.message))
            return
        self._events.put(Ended(task=task.name, node=HERE, result=reply))

    def poll(self, timeout_s: float) -> Sequence[Said | Ended]:
        """What happened."""
        found: list[Said | Ended] = []
        try:
            found.append(self._events.get(timeout=timeout_s))
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            pass
        for event in found:
            if isinstance(event, Ended):
                worker, thread = self._busy.pop(event.task)
                thread.join()
                if worker.dead:
                    worker.close()
                else:
                    self._idle.append(worker)
        return found

    def close(self) -> None:
        """End the workers; what they were doing is undone."""
        self._closing = True
        for worker, thread in self._busy.values():
            worker.terminate(GRACE_S)
            thread.join()
        for worker in self._idle:
            worker.close()


def open_engine(context: Context) -> Engine:
    """Begin."""
    return Local(context)
