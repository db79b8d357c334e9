"""``deploy serve``: serve a model's files over HTTP with the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core.artifact import Artifact
from deploy.core.backend import Backend, backends, find_backend
from deploy.core.errors import UsageError
from deploy.core.extras import require
from deploy.core.interrupt import Stopped
from deploy.core.limits import limits
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.models.given import text_of
from deploy.models.preprocessing import described
from deploy.serving.options import ServeOptions as ServeOptions
from deploy.serving.options import is_loopback, url_host
from deploy.support.deployment import FIXING, Deployment, is_deployment, load
from deploy.support.release_check import check_release

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from deploy.serving.connection import Pool
    from deploy.serving.models import ServedModel

BACKLOG = 1024
"""Connections that wait to be accepted."""
ACCEPTED = 16
"""Connections that are accepted at once."""
OTHER_FILES = 512
"""Files that a server opens besides its connections."""
SWITCH_S = 0.0005
"""Interval in seconds at which Python switches threads. With Python's default of 5 ms, a runner that has finished can
wait that long for a busy event loop. `benchmarks.serve_turns` measures the effect: p99 at saturation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedFile:
    """A name that the server answers under, and its file."""

    name: str
    file: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerInfo:
    """A running server."""

    url: str
    models: tuple[ServedFile, ...]
    page: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeReport:
    """Numbers of inference requests that a server answered and refused until it was stopped."""

    answered: int
    refused: int


def serve(
    model: str | Path | Artifact | None = None,
    *,
    files: Sequence[str | Path | Artifact] = (),
    backend: str | None = None,
    preprocess: Sequence[str] = (),
    labels: Sequence[str] = (),
    options: ServeOptions | None = None,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
    ready: Callable[[ServerInfo], None] = lambda server: None,
) -> ServeReport:
    """Serve a model until SIGINT or SIGTERM; requests in progress are finished first.

    Each file answers under its own name (``resnet18.int8-onnxruntime``); the first also answers under the model's name.

    Args:
        model: a model name in the artifacts directory, a file, also an ONNX file without a manifest, an artifact, or
            the ``deployment.json`` of `deploy.optimize`, which is served as chosen; default the model of the newest
            export.
        files: serve only these files, the first under the model's name; default every file of the model that runs on
            this machine.
        backend: name of the backend that runs the files; serve only files that it opens. Default: each file's format
            and target decide.
        preprocess: ``key=value`` changes to the preprocessing that the manifests record; for the page.
        labels: class names, in place of those in the manifests.
        options: how models are served.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages.
        ready: called once the server accepts requests.

    Raises:
        ArtifactError: there are no files to serve, one did not pass its parity check, or its weights are untrained.
        DigestError: a file differs from its manifest.
        UsageError: the address cannot be used, or the backend runs no files.
        MissingPackageError: a package of the server or the backend is not installed.
        BackendError: a backend failed to open or run a file.
    """
    require("serve")
    from deploy.serving.app import Service
    from deploy.serving.connection import Pool
    from deploy.serving.metrics import Metrics
    from deploy.serving.models import ModelOpener, choose_files
    from deploy.serving.reader import Reader

    options = options or ServeOptions()
    if preprocess and not options.page:
        raise UsageError("--preprocess is only used by the demo page.", "leave out --no-page")
    store = Store.at(artifacts)
    changed: Mapping[str, Any] = {}
    if is_deployment(model):
        backend, options, changed = _as_chosen(load(Path(model)), backend, options, progress)
    selected = _find_backend(backend) if backend is not None else None
    name = None if model is None else text_of(model)
    chosen = choose_files(name, [Path(text_of(file)) for file in files], selected, store, progress)
    for artifact in chosen:
        check_release(artifact, allow_untrained=options.allow_untrained, progress=progress)
    chosen = [described(artifact, preprocess, labels) for artifact in chosen]
    metrics = Metrics()
    opener = ModelOpener(options=options, metrics=metrics, backend=selected, changed=changed)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(options.host, options.port))
        reader = Reader()
        stack.callback(reader.close)
        served: list[ServedModel] = []
        for artifact in chosen:
            with progress.stage(f"opening {artifact.path.name}"):
                served.append(opener.open(artifact))
            stack.callback(served[-1].batcher.close)
        if not is_loopback(options.host):
            progress.warn(f"the server is reachable at {options.host} without authentication")
        names = {chosen[0].manifest.slug: served[0], **{item.name: item for item in served}}
        service = Service(names, reader, options, metrics)
        routes = []
        if options.page:
            from deploy.serving.page import page_routes

            routes = page_routes(chosen[0], served, service, opener, store, stack, progress)
        own = zip(served, chosen, strict=True)
        listed = {chosen[0].manifest.slug: chosen[0].path, **{item.name: artifact.path for item, artifact in own}}
        server = ServerInfo(
            url=f"http://{url_host(options.host)}:{listener.getsockname()[1]}",
            models=tuple(ServedFile(name=name, file=path) for name, path in listed.items()),
            page=bool(routes),
        )
        pool = Pool(limits(), options.max_request_bytes, metrics.refuse)
        _run(service.application(*routes), pool, listener, lambda: ready(server), service.stop_delaying)
    return ServeReport(answered=metrics.answered, refused=metrics.refused)


def _as_chosen(
    choice: Deployment, backend: str | None, options: ServeOptions, progress: Progress
) -> tuple[str, ServeOptions, Mapping[str, Any]]:
    """Return backend, options and options of the runner as ``deploy optimize`` chose them; those given come first."""
    options = dataclasses.replace(options, threads=options.threads or choice.threads)
    if backend not in (None, choice.backend):
        return str(backend), options, {}
    changed = dict(choice.changed)
    if FIXING.intersection(changed):
        if choice.batch == 1:
            options = dataclasses.replace(options, max_batch=1)
        else:
            progress.note(f"sizes are not fixed, since batches of fewer than {choice.batch} samples are served, too")
            changed = {name: value for name, value in changed.items() if name not in FIXING}
    return choice.backend, options, changed


def _find_backend(name: str) -> Backend:
    backend = find_backend(name)
    if not backend.runs_files:
        known = ", ".join(item.name for item in backends().values() if item.runs_files)
        raise UsageError(f"--backend {name}: {backend.title} runs PyTorch models, not files.", f"one of {known}")
    return backend.require()


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Listen before any file is opened, so that a port in use is reported at once; only `listen` makes it exclusive."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # Elsewhere: reuse a port whose last connections are closing. On Windows that option takes the port of others.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        listener.setsockopt(socket.SOL_SOCKET, exclusive or socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError as exc:
            raise UsageError(f"{host}:{port} cannot be used: {exc.strerror}.", "--port 0 takes a free port") from exc
        yield listener


def _run(
    application: ASGIApp,
    pool: Pool,
    listener: socket.socket,
    started: Callable[[], None],
    stopping: Callable[[], None],
) -> None:
    """Answer requests until SIGINT or SIGTERM, then finish those in progress."""
    import uvicorn

    from deploy.serving.connection import HEADERS, Connection

    class Server(uvicorn.Server):
        accepting: set[asyncio.Task[Any]]

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Accept connections; uvloop's own server accepts one per iteration, so that a crowd waits for seconds."""
            self.loop = asyncio.get_running_loop()
            self.accepting = set()
            self.loop.add_reader(listener, self.accept)
            self.watch = asyncio.create_task(pool.watch())
            self.started = True
            started()

        def accept(self) -> None:
            with contextlib.suppress(OSError):  # none waits, its client has gone, or there are too many open files
                for _ in range(ACCEPTED):
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    task = self.loop.create_task(self.loop.connect_accepted_socket(self.protocol, connection))
                    self.accepting.add(task)
                    task.add_done_callback(self.accepting.discard)

        def protocol(self) -> asyncio.Protocol:
            return Connection(config=config, server_state=self.server_state, app_state={}, pool=pool)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Accept the connections that the kernel has, and no others; then stop within `Limits.serve_drain_s`."""
            self.watch.cancel()
            stopping()
            self.loop.remove_reader(listener)
            listener.listen(0)
            self.accept()
            listener.close()
            await asyncio.gather(*self.accepting, return_exceptions=True)
            await pool.drain(lambda: self.force_exit)
            for task in self.server_state.tasks:
                task.cancel()

    config = uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        headers=HEADERS,
        lifespan="off",
        timeout_keep_alive=pool.limits.serve_idle_s,
    )
    _allow_files(pool.limits.serve_connections)
    gc.collect()
    gc.freeze()  # what is loaded stays; a full collection of it would hold up all requests
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        with contextlib.suppress(Stopped):  # uvicorn raises the signal again after it has stopped
            Server(config).run()
    finally:
        sys.setswitchinterval(interval)


def _allow_files(connections: int) -> None:
    """Raise this process's limit on open files as far as it may, so that every connection gets one."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = connections + OTHER_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
