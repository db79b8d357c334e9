"""A Ray cluster: a task of a sweep is a task of Ray, on a node that is chosen here and asked for by name.

Every node has an artifacts directory of its own for the time of the sweep. Files go there once, by their digest; what
a task makes comes back with its answer. A node that dies takes with it what ran there: that is told, so that it may run
on another.
"""

from __future__ import annotations

import hashlib
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
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
from deploy.sweeps.engines._ray_node import STORE, WORK, ProgressBoard, clear, do_there
from deploy.sweeps.schedule import share
from deploy.sweeps.task import Context, Ended, Engine, Files, Node, Said, Task

TOKEN_OF_KIND = 0.001
"""How much of a machine's resource a task asks for: the resource says what a node is, and is not used up."""
PATIENCE_S = 10.0
"""Seconds in which a cluster must answer."""
HELD_BYTES = 2 << 30
"""Of files that are held in Ray's memory for nodes that may want them."""
MOST_BYTES = 4 << 30
"""Of files outside the artifacts directory that are sent along."""
LOST = (NodeDiedError, ObjectLostError, ActorDiedError, ActorUnschedulableError, TaskUnschedulableError)


class Ray:
    """See the module.

    Args:
        context: what every engine is given.

    Raises:
        UsageError: there is no cluster at the address.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._token = secrets.token_hex(4)
        try:
            _reach(context.address)
            with _own_signals():
                ray.init(address=context.address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as exc:
            raise UsageError(
                f"there is no Ray cluster at {context.address!r}: {str(exc).splitlines()[0]}",
                "ray start --head, on the first machine; ray start --address HOST:6379, on the others",
            ) from exc
        self._blobs: dict[str, Any] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        self._sizes: dict[str, int] = {}
        self._running: dict[Any, tuple[Task, Node]] = {}
        home = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._board: Any = ray.remote(ProgressBoard).options(num_cpus=0, scheduling_strategy=home).remote()

    def nodes(self) -> Sequence[Node]:
        """Nodes that are alive and have processors."""
        return [
            Node(
                name=item["NodeID"],
                machines=frozenset(kind for kind, resource in self._context.machines.items() if resource in found),
                cpus=int(found["CPU"]),
                gpus=int(found.get("GPU", 0)),
            )
            for item in ray.nodes()  # type: ignore[no-untyped-call]
            if item["Alive"] and (found := item["Resources"]).get("CPU", 0) >= 1
        ]

    def start(self, task: Task, node: Node) -> None:
        """Begin a task on a node."""
        files = self._context.files(task)
        places = [
            *((STORE, path.relative_to(self._context.root).as_posix(), self._digest(path)) for path in files.artifacts),
            *((WORK, path.as_posix(), self._digest(path)) for path in _bounded(files)),
        ]
        blobs = {digest: self._blobs[digest] for _, _, digest in places}
        self._let_go()
        kinds = (self._context.machines[task.machine],) if task.machine else ()
        reference = (
            ray.remote(do_there)
            .options(
                num_cpus=node.cpus if task.exclusive else share(task, node),
                num_gpus=task.gpus,
                resources=dict.fromkeys(kinds, TOKEN_OF_KIND),
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.name, soft=False),
                name=task.name,
            )
            .remote(self._context.job, task.name, dict(task.work), places, blobs, self._token, self._board)
        )
        self._running[reference] = (task, node)

    def _digest(self, path: Path) -> str:
        """Of a file's content, whose bytes are put where every node can fetch them."""
        found = path.stat()
        key = (str(path), found.st_size, found.st_mtime_ns)
        digest = self._digests.get(key)
        if digest is None or digest not in self._blobs:
            content = path.read_bytes()
            digest = self._digests[key] = hashlib.sha256(content).hexdigest()
            if digest not in self._blobs:
                self._blobs[digest] = ray.put(content)
                self._sizes[digest] = len(content)
        self._blobs[digest] = self._blobs.pop(digest)  # the last that was wanted is the last to go
        return digest

    def _let_go(self) -> None:
        """Contents that were not wanted for long: tasks that run hold theirs, and a node that has one keeps it."""
        while sum(self._sizes[digest] for digest in self._blobs) > HELD_BYTES and len(self._blobs) > 1:
            del self._blobs[next(iter(self._blobs))]

    def poll(self, timeout_s: float) -> Sequence[Said | Ended]:
        """What happened; results are in the artifacts directory here when their end is told."""
        done, _ = ray.wait(list(self._running), timeout=timeout_s, num_returns=len(self._running))
        return [*self._said(), *(self._ended(reference) for reference in done)]

    def _said(self) -> list[Said]:
        try:
            messages: list[tuple[str, dict[str, Any]]] = ray.get(self._board.take.remote(), timeout=PATIENCE_S)
        except (RayError, GetTimeoutError):  # no more is told than how tasks end
            return []
        for _, message in messages:
            self._bring(message.pop("contents", {}))
        return [Said(task=task, message=message) for task, message in messages]

    def _bring(self, contents: Mapping[str, bytes]) -> None:
        """Publish artifacts that came from a node, each whole or not at all, and write records.

        Raises:
            DigestError: a file is not what its manifest says.
        """
        for path, content in contents.items():
            place = self._context.root / path
            if is_record(place):
                write_file(place, content)
            elif path.removesuffix(".json") in contents and path.endswith(".json"):
                self._publish(Manifest.from_json(content.decode(), place), PurePosixPath(path).parent, contents)

    def _publish(self, manifest: Manifest, folder: PurePosixPath, contents: Mapping[str, bytes]) -> None:
        with Store(self._context.root).transaction(folder.as_posix()) as transaction:
            for item in manifest.files:
                path = transaction.path(item.file)
                path.write_bytes(contents[(folder / item.file).as_posix()])
                if Payload.of(path) != item:
                    raise DigestError(f"{path.name}: it came from its node as something else.", "sweep again")
            transaction.publish(manifest)

    def _ended(self, reference: Any) -> Ended:
        task, node = self._running.pop(reference)
        try:
            found = ray.get(reference)
        except LOST as exc:
            return Ended(task=task.name, node=node.name, why=f"it was lost with its node ({_first(exc)}).", lost=True)
        except (WorkerCrashedError, OutOfMemoryError) as exc:
            alive = any(item.name == node.name for item in self.nodes())
            why = f"the process that did it died ({_first(exc)})."
            return Ended(task=task.name, node=node.name, why=why, lost=not alive)
        except RayTaskError as exc:
            return Ended(task=task.name, node=node.name, why=_first(exc.cause or exc))
        except RayError as exc:
            return Ended(task=task.name, node=node.name, why=f"{type(exc).__name__}: {_first(exc)}")
        try:
            self._bring(found["contents"])
        except ArtifactError as exc:
            return Ended(task=task.name, node=node.name, why=exc.message)
        return Ended(task=task.name, node=node.name, result={**found["result"], "fetched": found["fetched"]})

    def close(self) -> None:
        """End what runs, clear the folders on the nodes, and leave the cluster."""
        for reference in self._running:
            ray.cancel(reference, force=True)
        leave = ray.remote(clear)
        cleared = [
            leave.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.name, soft=False)).remote(
                self._token
            )
            for node in self.nodes()
        ]
        ray.wait(cleared, num_returns=len(cleared), timeout=10) if cleared else None
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray waits for minutes for an address at which nobody answers.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own in the place of ours, which undoes what is half done."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    yield
    if main and before is not None:
        signal.signal(signal.SIGTERM, before)


def _bounded(files: Files) -> Sequence[Path]:
    size = sum(path.stat().st_size for path in files.others)
    if size > MOST_BYTES:
        raise UsageError(
            f"{size / 1e9:.1f} GB of data would be sent to every node.",
            "put it where every node sees it, and name it by its absolute path",
        )
    return files.others


def _first(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return (lines[0] if lines else type(exc).__name__).rstrip(".")


def open_engine(context: Context) -> Engine:
    """Connect."""
    return Ray(context)
