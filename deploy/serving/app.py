"""The server's ASGI application.

`deploy.serving.connection` bounds what clients send and how long they take. Here, browsers are kept from sending
requests for other sites. `deploy.serving.reader` reads large JSON and images.
"""

from __future__ import annotations

import asyncio
import mmap
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.core.environment import version
from deploy.core.errors import DeployError
from deploy.serving.metrics import Metrics
from deploy.serving.models import VERSION, ServedModel
from deploy.serving.options import ServeOptions, is_loopback
from deploy.serving.protocol import HEADER_LENGTH, Body, RequestError, read_request, split_body, write_response
from deploy.serving.reader import Reader

INFER = re.compile(r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?/infer")
EXTENSIONS = ("binary_tensor_data", "classification")
MAPPED_BYTES = 1 << 20
"""Size from which a body has pages of its own."""
INLINE_BYTES = 64 << 10
"""Size up to which JSON is parsed in this process."""
CLIENT_CLOSED = 499
"""Status in the metrics of a request whose client closed the connection, as in nginx."""


class Service:
    """Request handlers for several models."""

    def __init__(
        self, models: Mapping[str, ServedModel], reader: Reader, options: ServeOptions, metrics: Metrics
    ) -> None:
        self.models = models
        self.reader = reader
        self.metrics = metrics
        self._loopback = is_loopback(options.host)

    def stop_delaying(self) -> None:
        """Run requests without waiting for others from now on, because the server is stopping."""
        for model in self.models.values():
            model.batcher.stop_delaying()

    def application(self, *routes: Route) -> ASGIApp:
        """Return the application: the protocol's routes, ``/metrics``, and further routes."""
        own: list[Route] = [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/metrics", self._metrics),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            own += [
                Route(path, self._model),
                Route(f"{path}/ready", self._model_ready),
                Route(f"{path}/infer", self._infer_without_post),
            ]
        handlers: dict[Any, Callable[..., Awaitable[Response]]] = {
            RequestError: _on_error,
            HTTPException: _on_error,
            ClientDisconnect: _on_disconnect,
        }
        return self._wrap(Starlette(routes=[*own, *routes], exception_handlers=handlers))

    def _wrap(self, inner: ASGIApp) -> ASGIApp:
        """Check origins first, and pass inference requests directly to their handler, which is faster than routing."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            refusal = self._foreign(scope)
            if refusal is not None:
                await _error_response(RequestError(403, refusal))(scope, receive, send)
                return
            match = INFER.fullmatch(scope["path"]) if scope.get("method") == "POST" else None
            if match is None:
                await inner(scope, receive, send)
                return
            scope["path_params"] = {name: value for name, value in match.groupdict().items() if value is not None}
            try:
                response = await self._infer(Request(scope, receive))
            except RequestError as exc:
                response = _error_response(exc)
            await response(scope, receive, send)

        return application

    def _foreign(self, scope: Scope) -> str | None:
        """Return why a request may come from a web page of another site; None if it does not.

        A site whose name resolves to this machine (DNS rebinding) is recognized by the Host header. Other sites can
        send requests, but not read the answers; they are recognized by what browsers say about the request.
        """
        values = {name: value for name, value in scope["headers"] if name in (b"host", b"origin", b"sec-fetch-site")}
        host = values.get(b"host", b"").decode("latin-1")
        if self._loopback and not is_loopback(re.sub(r":[0-9]*$", "", host)):
            return "the Host header does not name this server."
        if scope["method"] in ("GET", "HEAD"):
            return None
        site = values.get(b"sec-fetch-site")
        origin = values.get(b"origin", b"").decode("latin-1")
        same = not origin or origin.rpartition("://")[2].lower() == host.lower()
        if site not in (b"same-origin", b"none") if site is not None else not same:
            return "the request comes from a page of another site."
        return None

    async def body(self, request: Request) -> Body:
        """Receive the body of a request; status 415 if it is compressed."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError(415, "compressed requests are not supported.")
        size = int(request.headers.get("content-length", 0))
        if size < MAPPED_BYTES:
            parts = [part async for part in request.stream()]
            return parts[0] if len(parts) == 1 else b"".join(parts)
        body, filled = mmap.mmap(-1, size), 0  # given back to the system at once, unlike what malloc has
        async for part in request.stream():
            body[filled : filled + len(part)] = part
            filled += len(part)
        return body

    def find_model(self, request: Request) -> ServedModel:
        """Return the model that a request's path names; status 404 if there is no such model or version."""
        name = request.path_params["model"]
        if name not in self.models:
            raise RequestError(404, f"unknown model {name[:80]!r}; the models are {', '.join(self.models)}.")
        if request.path_params.get("version", VERSION) != VERSION:
            raise RequestError(404, f"{name} has no version {request.path_params['version'][:20]!r}.")
        return self.models[name]

    async def _server(self, request: Request) -> Response:
        return JSONResponse({"name": "deploy", "version": version("deploy-toolkit") or "", "extensions": EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _ready(self, request: Request) -> Response:
        return Response(status_code=200 if all(model.batcher.alive for model in self.models.values()) else 503)

    async def _metrics(self, request: Request) -> Response:
        queued = {model.name: model.batcher.queued_samples for model in self.models.values()}
        return Response(await asyncio.to_thread(self.metrics.text, queued), media_type=CONTENT_TYPE_LATEST)

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self.find_model(request).metadata(request.path_params["model"]))

    async def _model_ready(self, request: Request) -> Response:
        return Response(status_code=200 if self.find_model(request).batcher.alive else 503)

    async def _infer_without_post(self, request: Request) -> Response:
        raise RequestError(405, "inference requests must use POST.")

    async def _infer(self, request: Request) -> Response:
        began = time.perf_counter()
        model = self.find_model(request)
        status = CLIENT_CLOSED
        try:
            response = await self._run(model, request)
            status = response.status_code
            return response
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED)
        except RequestError as exc:
            status = exc.status
            raise
        finally:
            self.metrics.request(model.name, status, time.perf_counter() - began)

    async def _run(self, model: ServedModel, request: Request) -> Response:
        body = await self.body(request)
        text, binary = split_body(body, request.headers.get(HEADER_LENGTH))
        parts = text, binary, model.inputs, model.outputs
        inference = read_request(*parts) if len(text) <= INLINE_BYTES else await self.reader.request(*parts)
        shape = next(iter(inference.feeds.values())).shape
        try:
            fetches, _ = await model.batcher.run(inference.feeds, shape[0] if shape else 1)
        except DeployError as exc:
            raise RequestError(500, exc.message) from exc
        name = request.path_params["model"]
        content, headers = write_response(name, VERSION, inference, fetches, model.labels)
        return Response(content, headers=headers)


def _error_response(error: RequestError) -> Response:
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    return JSONResponse({"error": error.message}, error.status, headers=headers)


async def _on_error(request: Request, exc: RequestError | HTTPException) -> Response:
    return _error_response(exc if isinstance(exc, RequestError) else RequestError(exc.status_code, str(exc.detail)))


async def _on_disconnect(request: Request, exc: ClientDisconnect) -> Response:
    return Response(status_code=CLIENT_CLOSED)
