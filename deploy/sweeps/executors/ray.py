"""Run tasks on a Ray cluster: each task is a Ray task on the node that the schedule chose.

Every node has its own artifacts directory during the sweep. Each file is sent to a node once, by digest; the files that
a task makes come back with its result. If a node dies, its tasks are reported as lost, so that they can run on another.
"""

from __future__ import annotations

import hashlib
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnschedulableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deploy.core.artifact import Manifest, Payload
from deploy.core.errors import ArtifactError, DigestError, UsageError
from deploy.core.records import is_record
from deploy.core.store import Store, write_file
from deploy.sweeps.executor import Executor, ExecutorContext, Node, TaskEnd, TaskMessage
from deploy.sweeps.executors._ray_node import STORE, WORK, Mailbox, clear, run_on_node
from deploy.sweeps.schedule import share
from deploy.sweeps.task import Task, TaskFiles

RESOURCE_SHARE = 0.001
"""Amount of a machine's resource that a task requests: the resource labels a node and must not run out."""
TIMEOUT_S = 10.0
"""Time in which a cluster must answer."""
CACHE_BYTES = 2 << 30
"""Maximum size of the files kept in Ray's object store for other nodes."""
MAX_BYTES = 4 << 30
"""Maximum size of the files outside the artifacts directory that a task reads."""
LOST = (NodeDiedError, ObjectLostError, ActorDiedError, ActorUnschedulableError, TaskUnschedulableError)


class RayExecutor:
    """Runs tasks on a Ray cluster."""

    def __init__(self, context: ExecutorContext) -> None:
        self._context = context
        self._token = secrets.token_hex(4)
        try:
            _check_reachable(context.address)
            with _keep_signal_handler():
                ray.init(address=context.address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as exc:
            raise UsageError(
                f"no Ray cluster at {context.address!r}: {str(exc).splitlines()[0]}",
                "run 'ray start --head' on the first machine and 'ray start --address HOST:6379' on the others",
            ) from exc
        self._blobs: dict[str, Any] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        self._sizes: dict[str, int] = {}
        self._running: dict[Any, tuple[Task, Node]] = {}
        home = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        mailbox = ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=home)
        self._mailbox: Any = mailbox.remote()

    def nodes(self) -> Sequence[Node]:
        """Return the nodes that are alive and have CPU cores."""
        return [
            Node(
                name=item["NodeID"],
                machines=frozenset(kind for kind, resource in self._context.machines.items() if resource in resources),
                cpus=int(resources["CPU"]),
                gpus=int(resources.get("GPU", 0)),
            )
            for item in ray.nodes()  # type: ignore[no-untyped-call]
            if item["Alive"] and (resources := item["Resources"]).get("CPU", 0) >= 1
        ]

    def start(self, task: Task, node: Node) -> None:
        """Start a task on a node."""
        files = self._context.files(task)
        sent = [
            *((STORE, path.relative_to(self._context.root).as_posix(), self._digest(path)) for path in files.artifacts),
            *((WORK, path.as_posix(), self._digest(path)) for path in _other_files(files)),
        ]
        blobs = {digest: self._blobs[digest] for _, _, digest in sent}
        self._trim_cache()
        kinds = (self._context.machines[task.machine],) if task.machine else ()
        reference = (
            ray.remote(run_on_node)
            .options(
                num_cpus=node.cpus if task.exclusive else share(task, node),
                num_gpus=task.gpus,
                resources=dict.fromkeys(kinds, RESOURCE_SHARE),
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.name, soft=False),
                name=task.name,
            )
            .remote(self._context.job, task.name, dict(task.work), sent, blobs, self._token, self._mailbox)
        )
        self._running[reference] = (task, node)

    def _digest(self, path: Path) -> str:
        """Return the SHA-256 digest of a file and put its content into Ray's object store."""
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        digest = self._digests.get(key)
        if digest is None or digest not in self._blobs:
            content = path.read_bytes()
            digest = self._digests[key] = hashlib.sha256(content).hexdigest()
            if digest not in self._blobs:
                self._blobs[digest] = ray.put(content)
                self._sizes[digest] = len(content)
        self._blobs[digest] = self._blobs.pop(digest)  # most recently used last
        return digest

    def _trim_cache(self) -> None:
        """Release the least recently used contents; running tasks hold references to theirs."""
        while sum(self._sizes[digest] for digest in self._blobs) > CACHE_BYTES and len(self._blobs) > 1:
            del self._blobs[next(iter(self._blobs))]

    def poll(self, timeout_s: float) -> Sequence[TaskMessage | TaskEnd]:
        """Return the events since the last call; the files of ended tasks are in the local artifacts directory."""
        done, _ = ray.wait(list(self._running), timeout=timeout_s, num_returns=len(self._running))
        return [*self._messages(), *(self._end(reference) for reference in done)]

    def _messages(self) -> list[TaskMessage]:
        try:
            messages: list[tuple[str, dict[str, Any]]] = ray.get(self._mailbox.take.remote(), timeout=TIMEOUT_S)
        except (RayError, GetTimeoutError):  # messages are optional; results come with the end of a task
            return []
        for _, message in messages:
            self._store(message.pop("contents", {}))
        return [TaskMessage(task=task, message=message) for task, message in messages]

    def _store(self, contents: Mapping[str, bytes]) -> None:
        """Publish artifacts from a node, each in one transaction, and write records."""
        for path, content in contents.items():
            target = self._context.root / path
            if is_record(target):
                write_file(target, content)
            elif path.removesuffix(".json") in contents and path.endswith(".json"):
                self._publish(Manifest.from_json(content.decode(), target), PurePosixPath(path).parent, contents)

    def _publish(self, manifest: Manifest, folder: PurePosixPath, contents: Mapping[str, bytes]) -> None:
        slug, *subfolder = folder.parts
        with Store(self._context.root).transaction(slug) as transaction:
            for item in manifest.files:
                path = transaction.path(item.file)
                path.write_bytes(contents[(folder / item.file).as_posix()])
                if Payload.of(path) != item:
                    raise DigestError(
                        f"{path.name}: the file received from the node differs from its manifest.",
                        "run the sweep again",
                    )
            transaction.publish(manifest, "/".join(subfolder))

    def _end(self, reference: Any) -> TaskEnd:
        task, node = self._running.pop(reference)
        try:
            answer = ray.get(reference)
        except LOST as exc:
            return TaskEnd(task=task.name, node=node.name, reason=f"the node was lost ({_first_line(exc)}).", lost=True)
        except (WorkerCrashedError, OutOfMemoryError) as exc:
            alive = any(item.name == node.name for item in self.nodes())
            reason = f"the worker process died ({_first_line(exc)})."
            return TaskEnd(task=task.name, node=node.name, reason=reason, lost=not alive)
        except RayTaskError as exc:
            return TaskEnd(task=task.name, node=node.name, reason=_first_line(exc.cause or exc))
        except RayError as exc:
            return TaskEnd(task=task.name, node=node.name, reason=f"{type(exc).__name__}: {_first_line(exc)}")
        try:
            self._store(answer["contents"])
        except ArtifactError as exc:
            return TaskEnd(task=task.name, node=node.name, reason=exc.message)
        return TaskEnd(task=task.name, node=node.name, result={**answer["result"], "fetched": answer["fetched"]})

    def close(self) -> None:
        """Cancel running tasks, remove the folders on the nodes, and disconnect."""
        for reference in self._running:
            ray.cancel(reference, force=True)
        remote = ray.remote(clear)
        cleared = [
            remote.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.name, soft=False)
            ).remote(self._token)
            for node in self.nodes()
        ]
        ray.wait(cleared, num_returns=len(cleared), timeout=10) if cleared else None
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Connect once, since Ray waits for minutes for an address that does not answer."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S).close()


@contextmanager
def _keep_signal_handler() -> Iterator[None]:
    """Restore our SIGTERM handler, which discards partial results; Ray replaces it."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    yield
    if main and before is not None:
        signal.signal(signal.SIGTERM, before)


def _other_files(files: TaskFiles) -> Sequence[Path]:
    size = sum(path.stat().st_size for path in files.others)
    if size > MAX_BYTES:
        raise UsageError(
            f"{size / 1e9:.1f} GB of data would be sent to every node.",
            "put the data on a disk that every node can read, and give its absolute path",
        )
    return files.others


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return (lines[0] if lines else type(exc).__name__).rstrip(".")


open_executor: Callable[[ExecutorContext], Executor] = RayExecutor
