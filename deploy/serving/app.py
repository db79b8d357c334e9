"""The server's ASGI application.

Memory is bounded whatever clients send: each request body, all bodies together, and every queue have a maximum size.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
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
from deploy.serving.options import LOOPBACK, ServeOptions, url_host
from deploy.serving.protocol import HEADER_LENGTH, RequestError, read_request, write_response

INFER = re.compile(r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?/infer")
EXTENSIONS = ("binary_tensor_data", "classification")
READ_TIMEOUT_S = 30.0
"""Maximum time to receive a body."""
TOTAL_BODY_FACTOR = 4
"""The bodies of all requests in progress may total this many times the maximum size of one."""
CLIENT_CLOSED = 499
"""Status in the metrics of a request whose client closed the connection, as in nginx."""


class Service:
    """Request handlers for several models."""

    def __init__(self, models: Mapping[str, ServedModel], options: ServeOptions, metrics: Metrics) -> None:
        self.models = models
        self.metrics = metrics
        self._options = options
        self._body_bytes = 0

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
        handlers: dict[Any, Callable[..., Awaitable[Response]]] = {RequestError: _on_error, HTTPException: _on_error}
        return self._wrap(Starlette(routes=[*own, *routes], exception_handlers=handlers))

    def _wrap(self, inner: ASGIApp) -> ASGIApp:
        """Check hosts first, and pass inference requests directly to their handler, which is faster than routing.

        The check keeps web pages of other sites from using a local server through a browser (DNS rebinding).
        """
        hosts = {url_host(name).encode() for name in LOOPBACK} if self._options.host in LOOPBACK else set()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if hosts and scope["type"] == "http" and _host(scope) not in hosts:
                error = RequestError(403, "the Host header does not name this server.")
                await _error_response(error)(scope, receive, send)
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

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Receive the body of a request within the limits; its size counts until the context ends.

        Raises:
            RequestError: status 413 too large, 429 too many requests in progress, 408 too slow, 415 compressed.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError(415, "compressed requests are not supported.")
        declared = request.headers.get("content-length", "")
        self._check_size(int(declared) if declared.isascii() and declared.isdigit() else 0, 0)
        parts: list[bytes] = []
        try:
            try:
                await _with_timeout(READ_TIMEOUT_S, self._read(request, parts))
            except asyncio.TimeoutError as exc:
                raise RequestError(408, f"no complete request after {READ_TIMEOUT_S:g} s.") from exc
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            self._body_bytes -= sum(map(len, parts))

    async def _read(self, request: Request, parts: list[bytes]) -> None:
        size = 0
        async for part in request.stream():
            self._check_size(size + len(part), len(part))
            size += len(part)
            self._body_bytes += len(part)
            parts.append(part)

    def _check_size(self, size: int, more: int) -> None:
        limit = self._options.max_request_bytes
        if size > limit:
            raise RequestError(413, f"the request is larger than {limit} bytes.")
        if self._body_bytes + more > TOTAL_BODY_FACTOR * limit:
            raise RequestError(429, "too many requests are in progress.", 1)

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
        return Response(self.metrics.text(queued), media_type=CONTENT_TYPE_LATEST)

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
        async with self.body(request) as body:
            inference = read_request(body, request.headers.get(HEADER_LENGTH), model.inputs, model.outputs)
            shape = next(iter(inference.feeds.values())).shape
            try:
                fetches, _ = await model.batcher.run(inference.feeds, shape[0] if shape else 1)
            except DeployError as exc:
                raise RequestError(500, exc.message) from exc
        name = request.path_params["model"]
        content, headers = write_response(name, VERSION, inference, fetches, model.labels)
        return Response(content, headers=headers)


async def _with_timeout(timeout_s: float, coroutine: Coroutine[Any, Any, None]) -> None:
    if sys.version_info >= (3, 11):  # cheaper than wait_for, which creates a task
        async with asyncio.timeout(timeout_s):
            await coroutine
    else:
        await asyncio.wait_for(coroutine, timeout_s)


def _host(scope: Scope) -> bytes:
    value: bytes = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return value.rsplit(b":", 1)[0] if not value.endswith(b"]") else value


def _error_response(error: RequestError) -> Response:
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    return JSONResponse({"error": error.message}, error.status, headers=headers)


async def _on_error(request: Request, exc: RequestError | HTTPException) -> Response:
    return _error_response(exc if isinstance(exc, RequestError) else RequestError(exc.status_code, str(exc.detail)))
