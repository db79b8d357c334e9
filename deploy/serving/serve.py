"""``deploy serve``: a model's files behind the Open Inference Protocol, on this machine."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core.artifact import Artifact
from deploy.core.errors import MissingPackageError, UsageError
from deploy.core.interrupt import Stopped
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.support.release_check import check_release

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from deploy.serving.served import ServedModel

LOOPBACK = ("127.0.0.1", "localhost", "::1")
GRACE_S = 30
"""Seconds that requests have to be answered in after a signal to stop."""
WAITING_CONNECTIONS = 1024
SWITCH_S = 0.0005
"""Seconds after which one Python thread lets another have its turn; Python's own is 5 ms, which a runner that has an
answer can wait for a busy event loop. What it is worth, `benchmarks.serve_turns` measures: p99 at saturation."""
BODIES = 4
"""All requests at a time may have so many times the bytes that one may have."""
PACKAGES = ("uvicorn", "starlette", "orjson", "prometheus_client")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """How a model is served.

    Attributes:
        host, port: where to listen; port 0 takes a free one.
        max_batch, queue: in samples.
        max_delay_s, timeout_s: see `deploy.serving.batching.Limits`.
        max_request: bytes of a request.
        instances: runners of every file, each with a thread and a copy of the weights.
        threads: within an operator, of every runner; None for all cores this process may use.
        page: the page, with PyTorch beside the files.
        allow_untrained: serve weights that mean nothing.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_batch: int = 32
    max_delay_s: float = 0.0
    queue: int = 1024
    timeout_s: float = 10.0
    max_request: int = 64 << 20
    instances: int = 1
    threads: int | None = None
    page: bool = True
    allow_untrained: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What is being served; models by the names that answer, with their files."""

    url: str
    models: tuple[tuple[str, Path], ...]
    page: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "url": self.url,
            "models": [{"name": name, "file": str(file)} for name, file in self.models],
            "page": self.page,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeReport:
    """What a server did until it was stopped: requests to infer that were answered, and refused."""

    answered: int
    refused: int


def serve(
    model: str | None = None,
    *,
    files: Sequence[Path] = (),
    options: ServeOptions | None = None,
    artifacts: Path | None = None,
    progress: Progress = SILENT,
    ready: Callable[[Serving], None] = lambda serving: None,
) -> ServeReport:
    """Serve a model until a signal comes; requests that were begun are answered first.

    Each file answers under its own name (``resnet18.int8-onnxruntime``), the first of them under the model's too.

    Args:
        model: a name as in the artifacts directory, or a file; default the model of the newest export.
        files: serve these only, the first under the model's name; default every file of the model that runs here.
        options: see `ServeOptions`.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: told what happens.
        ready: called when requests are answered.

    Raises:
        ArtifactError: there is no file, its parity was not shown, or its weights are untrained.
        DigestError: a file is not what its manifest says.
        UsageError: the address cannot be used.
        MissingPackageError: the server's packages are not installed.
        BackendError: a runtime refused a file.
    """
    options = options or ServeOptions()
    for package in PACKAGES:
        _package(package)
    from deploy.serving.models import choose

    store = Store(artifacts or default_root())
    chosen = choose(model, files, store, progress)
    for artifact in chosen:
        check_release(artifact, allow_untrained=options.allow_untrained, progress=progress)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(options.host, options.port))
        return _serve(chosen, options, listener, stack, store, progress, ready)


def _serve(
    chosen: Sequence[Artifact],
    options: ServeOptions,
    listener: socket.socket,
    stack: contextlib.ExitStack,
    store: Store,
    progress: Progress,
    ready: Callable[[Serving], None],
) -> ServeReport:
    from deploy.serving.app import RequestLimits, Service
    from deploy.serving.batching import BatchingLimits
    from deploy.serving.metrics import Metrics
    from deploy.serving.models import Opening, open_served

    metrics = Metrics()
    limits = BatchingLimits(
        max_batch=options.max_batch, max_delay_s=options.max_delay_s, queue=options.queue, timeout_s=options.timeout_s
    )
    opening = Opening(limits=limits, metrics=metrics, instances=options.instances, threads=options.threads)
    served: list[ServedModel] = []
    for artifact in chosen:
        with progress.stage(f"opening {artifact.path.name}"):
            served.append(open_served(artifact, opening))
        stack.callback(served[-1].batcher.close)
    local = options.host in LOOPBACK
    if not local:
        progress.warn(f"whoever reaches {options.host} can use this server: there is no password.")
    bounds = RequestLimits(
        body=options.max_request, bodies=BODIES * options.max_request, hosts=tuple(map(_quoted, LOOPBACK)) * local
    )
    slug = chosen[0].manifest.slug
    names = {slug: served[0], **{item.name: item for item in served}}
    service = Service(names, bounds, metrics)
    routes = []
    if options.page:
        from deploy.serving.comparison import page_routes

        routes = page_routes(chosen[0], served, service, opening, store, stack, progress)
    serving = Serving(
        url=f"http://{_quoted(options.host)}:{listener.getsockname()[1]}",
        models=tuple(zip(names, (chosen[0].path, *(item.path for item in chosen)), strict=True)),
        page=bool(routes),
    )
    _run(service.application(*routes), listener, lambda: ready(serving), service.hurry)
    return ServeReport(answered=metrics.answered, refused=metrics.refused)


def _quoted(host: str) -> str:
    """A host as addresses write it."""
    return f"[{host}]" if ":" in host else host


def _run(
    application: ASGIApp, listener: socket.socket, ready: Callable[[], None], stopping: Callable[[], None]
) -> None:
    """Answer until SIGINT or SIGTERM; what was begun is answered."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            stopping()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        backlog=WAITING_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
    )
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        with contextlib.suppress(Stopped):  # uvicorn raises the signal again when it has stopped
            Server(config).run(sockets=[listener])
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket, before anything is opened: a port that is taken is known at once.

    Raises:
        UsageError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as exc:
            raise UsageError(
                f"{host}:{port} cannot be used: {exc.strerror}.", "another one: --port 0 takes any"
            ) from exc
        yield listener


def _package(name: str) -> None:
    try:
        import_module(name)
    except ImportError as exc:
        raise MissingPackageError(name, "the server", "deploy-toolkit[serve]") from exc
