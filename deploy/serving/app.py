"""The server's addresses, as an ASGI application.

Nothing that a client sends makes memory grow without bound: a body has a largest size, all bodies together have one,
and so has every queue.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.core.environment import version
from deploy.core.errors import DeployError
from deploy.serving.metrics import CONTENT_TYPE, Metrics
from deploy.serving.protocol import HEADER_LENGTH, read_request, write_response
from deploy.serving.refusal import Refusal
from deploy.serving.served import VERSION, ServedModel

INFER = re.compile(r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?/infer")
EXTENSIONS = ("binary_tensor_data", "classification")
GONE = 499
"""The status of a request whose client has gone, as web servers log it; nobody reads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """What a client may send; sizes in bytes, time in seconds.

    Attributes:
        body: of one request.
        bodies: of all requests that are read or answered at a time.
        read_s: until a body has come.
        hosts: names that requests may be for; empty for any. A page of another site cannot use a server on this
            machine through its visitor's browser where they are bounded.
    """

    body: int = 64 << 20
    bodies: int = 256 << 20
    read_s: float = 30.0
    hosts: tuple[str, ...] = ()


class Service:
    """Models by name, and the handlers that answer for them."""

    def __init__(self, models: Mapping[str, ServedModel], bounds: RequestLimits, metrics: Metrics) -> None:
        self.models = models
        self.metrics = metrics
        self._bounds = bounds
        self._held = 0

    def hurry(self) -> None:
        """From now on no request waits for others: the server is about to stop."""
        for item in self.models.values():
            item.batcher.hurry()

    def application(self, *more: Route) -> ASGIApp:
        """The protocol's addresses, ``/metrics``, and more."""
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
                Route(f"{path}/infer", self._not_posted),
            ]
        handlers: dict[Any, Callable[..., Awaitable[Response]]] = {Refusal: _refused, HTTPException: _not_there}
        return self._guarded(Starlette(routes=[*own, *more], exception_handlers=handlers))

    def _guarded(self, inner: ASGIApp) -> ASGIApp:
        """Hosts are looked at first; requests to infer go straight to their handler, past the framework's routes."""
        hosts = {name.encode() for name in self._bounds.hosts}

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if hosts and scope["type"] == "http" and _host(scope) not in hosts:
                refusal = Refusal(403, "this server answers to its own name only.")
                await _answer(refusal)(scope, receive, send)
                return
            asked = INFER.fullmatch(scope["path"]) if scope.get("method") == "POST" else None
            if asked is None:
                await inner(scope, receive, send)
                return
            scope["path_params"] = {name: value for name, value in asked.groupdict().items() if value is not None}
            try:
                response = await self._infer(Request(scope, receive))
            except Refusal as exc:
                response = _answer(exc)
            await response(scope, receive, send)

        return application

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, within the bounds; it counts as held until the context ends.

        Raises:
            Refusal: 413 too large, 429 too much at a time, 408 too slow, 415 compressed.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "compressed requests are not read.")
        declared = request.headers.get("content-length", "")
        self._check(int(declared) if declared.isascii() and declared.isdigit() else 0, 0)
        parts: list[bytes] = []
        try:
            try:
                await _within(self._bounds.read_s, self._read(request, parts))
            except asyncio.TimeoutError as exc:
                raise Refusal(408, f"the request was not there after {self._bounds.read_s:g} s.") from exc
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            self._held -= sum(map(len, parts))

    async def _read(self, request: Request, parts: list[bytes]) -> None:
        size = 0
        async for part in request.stream():
            self._check(size + len(part), len(part))
            size += len(part)
            self._held += len(part)
            parts.append(part)

    def _check(self, size: int, more: int) -> None:
        if size > self._bounds.body:
            raise Refusal(413, f"the request has more than {self._bounds.body} bytes.")
        if self._held + more > self._bounds.bodies:
            raise Refusal(429, "too many requests are being answered.", 1)

    def served(self, request: Request) -> ServedModel:
        """The model that an address names.

        Raises:
            Refusal: 404.
        """
        name = request.path_params["model"]
        if name not in self.models:
            raise Refusal(404, f"there is no model {name[:80]!r}; there are: {', '.join(self.models)}.")
        if request.path_params.get("version", VERSION) != VERSION:
            raise Refusal(404, f"there is no version {request.path_params['version'][:20]!r} of {name}.")
        return self.models[name]

    async def _server(self, request: Request) -> Response:
        return JSONResponse(
            {"name": "deploy", "version": version("deploy-toolkit") or "", "extensions": list(EXTENSIONS)}
        )

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _ready(self, request: Request) -> Response:
        return Response(status_code=200 if all(item.batcher.alive for item in self.models.values()) else 503)

    async def _metrics(self, request: Request) -> Response:
        waiting = {item.name: item.batcher.waiting for item in self.models.values()}
        return Response(self.metrics.text(waiting), media_type=CONTENT_TYPE)

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self.served(request).metadata(request.path_params["model"]))

    async def _model_ready(self, request: Request) -> Response:
        return Response(status_code=200 if self.served(request).batcher.alive else 503)

    async def _not_posted(self, request: Request) -> Response:
        raise Refusal(405, "requests to infer are POSTed.")

    async def _infer(self, request: Request) -> Response:
        began = time.perf_counter()
        served = self.served(request)
        status = GONE
        try:
            response = await self._answer(served, request)
            status = response.status_code
            return response
        except ClientDisconnect:
            return Response(status_code=GONE)
        except Refusal as exc:
            status = exc.status
            raise
        finally:
            self.metrics.request(served.name, status, time.perf_counter() - began)

    async def _answer(self, served: ServedModel, request: Request) -> Response:
        async with self.body(request) as body:
            asked = read_request(body, request.headers.get(HEADER_LENGTH), served.inputs, served.outputs)
            shape = next(iter(asked.feeds.values())).shape
            try:
                answer = await served.batcher.answer(asked.feeds, shape[0] if shape else 1)
            except DeployError as exc:
                raise Refusal(500, exc.message) from exc
        content, headers = write_response(request.path_params["model"], VERSION, asked, answer.fetches, served.labels)
        return Response(content, headers=headers)


async def _within(seconds: float, reading: Coroutine[Any, Any, None]) -> None:
    """Await it for so long.

    Raises:
        asyncio.TimeoutError: it took longer.
    """
    if sys.version_info >= (3, 11):  # without a task of its own
        async with asyncio.timeout(seconds):
            await reading
    else:
        await asyncio.wait_for(reading, seconds)


def _host(scope: Scope) -> bytes:
    """The host that a request is for, without the port."""
    value: bytes = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return value.rsplit(b":", 1)[0] if not value.endswith(b"]") else value


def _answer(refusal: Refusal) -> Response:
    headers = {"retry-after": str(refusal.retry_after_s)} if refusal.retry_after_s is not None else {}
    return JSONResponse({"error": refusal.message}, refusal.status, headers=headers)


async def _refused(request: Request, exc: Refusal) -> Response:
    return _answer(exc)


async def _not_there(request: Request, exc: HTTPException) -> Response:
    return _answer(Refusal(exc.status_code, str(exc.detail)))
