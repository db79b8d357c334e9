"""The limits on connections: what a client sends, how long it takes, and what the server keeps for it.

uvicorn with httptools parses HTTP strictly and quickly, but it bounds neither the sizes nor the times of what it reads.
`Connection` adds that. A request that breaks a limit gets an error status, and its connection is closed; complete
requests on the same connection are answered first.
"""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NoReturn

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.core.limits import Limits

SWEEP_S = 0.2
"""Time between two checks of all connections."""
LINGER_S = 2.0
"""Time in which a client can read why its connection is closed."""
LINGER_BYTES = 1 << 20
"""Bytes that a client can still send in that time; they are discarded."""
QUIET_S = 0.5
"""Time in which a connection of a server that is stopping can still bring a request, or the rest of one."""
SMALL_BODY_BYTES = 32 << 10
"""Size up to which a body does not count among all bodies; the number of connections bounds these."""
SMALL_CHUNK_BYTES = 64
"""Average size from which the chunks of a body may be many."""
HEADERS = [("x-content-type-options", "nosniff"), ("cross-origin-resource-policy", "same-origin")]
"""Headers of every response."""


class _Waits(enum.Enum):
    """What a connection waits for; NOTHING while the server has a complete request."""

    NOTHING = enum.auto()
    REQUEST = enum.auto()
    HEADERS = enum.auto()
    BODY = enum.auto()
    CLOSE = enum.auto()


class Pool:
    """The connections of a server and what they share. ``refused`` is called with the status of each refusal."""

    def __init__(self, limits: Limits, max_body_bytes: int, refused: Callable[[int], None]) -> None:
        self.limits = limits
        self.max_body_bytes = max_body_bytes
        self.refused = refused
        self.connections: set[Connection] = set()
        self.waiting: dict[Connection, None] = {}
        """Connections that wait for their clients, the longest first."""
        self.uploading: dict[Connection, None] = {}
        """Connections with part of a body, the oldest first."""
        self.body_bytes = 0
        self.stopping_at: float | None = None

    def admit(self, connection: Connection) -> bool:
        """Add a connection, in place of the one that waits longest if there are too many."""
        self.connections.add(connection)
        if len(self.connections) > self.limits.serve_connections:
            longest = next(iter(self.waiting), None)
            if longest is None:
                return False
            longest.refuse(503, "too many connections.", linger=False)
        return True

    def hold(self, connection: Connection, size: int) -> bool:
        """Count a part of a body. Other incomplete bodies, the oldest first, give way to it; False if none is left."""
        self.body_bytes += size
        while self.body_bytes > max(self.limits.serve_bodies_bytes, self.max_body_bytes):
            oldest = next(iter(self.uploading), connection)
            if oldest is connection:
                return False
            del self.uploading[oldest]
            oldest.refuse(429, "too many requests are in progress.")
        return True

    async def watch(self) -> None:
        """Check all connections until canceled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """End connections that exceed a time, and the largest responses that nobody reads."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.connections):
            connection.check(now)
        unread = {connection: connection.unread_bytes for connection in self.connections}
        total = sum(unread.values())
        for connection in sorted(unread, key=unread.__getitem__, reverse=True):
            if total <= self.limits.serve_responses_bytes:
                break
            total -= unread[connection]
            connection.transport.abort()

    async def drain(self, force: Callable[[], bool]) -> None:
        """Answer all complete requests, and close all connections, within `Limits.serve_drain_s`."""
        loop = asyncio.get_running_loop()
        self.stopping_at = loop.time()
        for connection in self.connections:
            connection.shutdown()
        while self.connections and not force() and loop.time() < self.stopping_at + self.limits.serve_drain_s + QUIET_S:
            await asyncio.sleep(0.02)
            self.sweep()
        for connection in list(self.connections):
            connection.transport.abort()


class Connection(HttpToolsProtocol):
    """One connection of a `Pool`."""

    def __init__(self, *arguments: Any, pool: Pool, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.pool = pool
        self._limits = pool.limits
        self._waits = _Waits.NOTHING
        self._since = 0.0
        self._began = False
        self._framing_bytes = 0  # all that was received but bodies, since the last request was complete
        self._body_bytes = self._chunks = self._trailers = 0
        self._window = (0.0, 0)  # start of the current interval of `serve_stall_s`, and the bytes of the body by then
        self._held_bytes = 0
        self._unanswered = 0  # complete requests without a response
        self._refusal: tuple[int, str] | None = None
        self._unread_since: float | None = None

    @property
    def unread_bytes(self) -> int:
        """Bytes of responses that the client has not read."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Join the pool."""
        super().connection_made(transport)
        if self.pool.admit(self):
            self._wait(_Waits.REQUEST)
        else:
            self.refuse(503, "too many connections.", linger=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the pool."""
        self.pool.connections.discard(self)
        self._wait(_Waits.NOTHING)
        self._release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and bound what has been received of an incomplete line; its parts reach no callback."""
        if self._waits is _Waits.CLOSE or self._refusal:
            self._body_bytes += len(data)
            if self._body_bytes > LINGER_BYTES:
                self.flow.pause_reading()
            return
        if self._waits is _Waits.NOTHING:
            self._framing_bytes = 0
        self._framing_bytes += len(data)
        super().data_received(data)
        excess = self._framing_bytes - self._limits.serve_header_bytes - self._limits.serve_url_bytes
        if self._waits in (_Waits.REQUEST, _Waits.HEADERS) and excess > 0:
            self.refuse(431, "the headers are too large.")
        elif self._waits is _Waits.BODY and excess > self._limits.serve_header_bytes + self._body_bytes:
            self.refuse(400, "the chunks, or the headers after them, are too large.")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer complete requests of a client that sends nothing more."""
        if not self._unanswered:
            return None
        self.cycle.keep_alive = False
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser, or a callback through `_reject`, found wrong."""
        status, message = self._refusal or (400, "invalid HTTP.")
        self._refusal = None
        self.refuse(status, message)

    def _reject(self, status: int, message: str) -> NoReturn:
        """End parsing from a callback of the parser."""
        self._refusal = status, message
        raise ValueError(message)

    # Callbacks of the parser, in the order in which it calls them.

    def on_message_begin(self) -> None:
        """Start to count and to wait for the headers."""
        super().on_message_begin()
        self._began = True
        self._body_bytes = self._chunks = self._trailers = 0
        self._wait(_Waits.HEADERS)
        if self._unanswered >= self._limits.serve_pipelined:
            self._reject(429, "too many requests at once on one connection.")

    def on_url(self, url: bytes) -> None:
        """Bound the URL."""
        super().on_url(url)
        if len(self.url) > self._limits.serve_url_bytes:
            self._reject(414, f"the URL is longer than {self._limits.serve_url_bytes} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound the number of headers, and discard those after a chunked body."""
        trailer = self._waits is _Waits.BODY
        self._trailers += trailer
        if self._trailers + len(self.headers) >= self._limits.serve_headers:
            self._reject(431, f"the request has more than {self._limits.serve_headers} headers.")
        if not trailer:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the headers, and start to wait for the body."""
        size = hosts = 0
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
            elif name == b"content-length" and (len(value) > 18 or int(value) > self.pool.max_body_bytes):
                self._reject(*((400, "invalid HTTP.") if len(value) > 18 else self._too_large()))
        if size > self._limits.serve_header_bytes:
            self._reject(431, f"the headers are larger than {self._limits.serve_header_bytes} bytes.")
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._reject(400, "the request needs one Host header.")
        self._wait(_Waits.BODY)
        self._window = self._since, 0
        super().on_headers_complete()
        if self.pool.stopping_at is not None:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """Count chunks: each costs the server more than it costs the client."""
        self._chunks += 1
        if self._chunks > self._limits.serve_headers + self._body_bytes // SMALL_CHUNK_BYTES:
            self._reject(400, f"the chunks have less than {SMALL_CHUNK_BYTES} bytes on average.")

    def on_body(self, body: bytes) -> None:
        """Bound the body, and all bodies together."""
        self._body_bytes += len(body)
        self._framing_bytes -= len(body)
        if self._body_bytes > self.pool.max_body_bytes:
            self._reject(*self._too_large())
        if self.cycle.response_complete:
            return
        if self._body_bytes > SMALL_BODY_BYTES:  # a request with a few samples is always taken
            self.pool.uploading.setdefault(self)
            size = self._body_bytes if self._body_bytes - len(body) <= SMALL_BODY_BYTES else len(body)
            self._held_bytes += size
            if not self.pool.hold(self, size):
                self._reject(429, "too many requests are in progress.")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete; it is answered from now on, whatever the client sends next."""
        self._wait(_Waits.NOTHING)
        if self.cycle.response_complete:  # the response did not wait for the body
            self._wait(_Waits.REQUEST)
        else:
            self._unanswered += 1
        super().on_message_complete()

    # The other direction.

    def on_response_complete(self) -> None:
        """Wait for the next request, or close the connection if one was refused."""
        self._unanswered -= self._unanswered > 0
        super().on_response_complete()
        if self._unanswered:
            return
        self._release()
        if self._refusal is not None:
            self._end(*self._refusal)
        elif self._waits is _Waits.NOTHING:
            self._wait(_Waits.REQUEST)
        else:  # part of the next request is there
            self.pool.waiting.setdefault(self)

    def refuse(self, status: int, message: str, *, linger: bool = True) -> None:
        """Answer complete requests, then send an error status and close the connection.

        With ``linger``, the client gets some time to read the status.
        """
        if self.transport.is_closing() or self._waits is _Waits.CLOSE:
            return
        if not self._unanswered:
            self._end(status, message, linger=linger)
            return
        self._refusal = status, message
        if self._waits is _Waits.BODY and self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()
        self._wait(_Waits.NOTHING)

    def _end(self, status: int, message: str, *, linger: bool = True) -> None:
        """Send an error status, unless a response has begun, and close the connection."""
        silent = self._waits is _Waits.REQUEST and not self._began
        if self._waits is _Waits.BODY or self._unanswered:
            silent = self.cycle.response_started
            self.pipeline.clear()
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not silent:
            self.pool.refused(status)
            self.transport.write(_response(status, message))
        self._wait(_Waits.CLOSE)
        self._body_bytes = 0
        self._release()
        if linger and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """Close the connection after the requests that it has, because the server is stopping."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def check(self, now: float) -> None:
        """End the connection if its client takes too long."""
        limits, waited_s = self._limits, now - self._since
        if not self.unread_bytes:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > limits.serve_response_s:
            self.transport.abort()
            return
        if self._waits is _Waits.CLOSE:
            if waited_s > LINGER_S:
                self.transport.abort()
        elif self.pool.stopping_at is not None:
            self._check_stopping(now - self.pool.stopping_at)
        elif self._waits is _Waits.HEADERS or (self._waits is _Waits.REQUEST and not self._began):
            if waited_s > limits.serve_header_s:
                self.refuse(408, f"no complete headers after {limits.serve_header_s} s.")
        elif self._waits is _Waits.REQUEST:
            if waited_s > limits.serve_idle_s:
                self.transport.close()
        elif self._waits is _Waits.BODY:
            self._check_body(now)

    def _check_body(self, now: float) -> None:
        limits = self._limits
        if now - self._since > limits.serve_body_s:
            self.refuse(408, f"no complete body after {limits.serve_body_s} s.")
            return
        start, size = self._window
        if now - start > limits.serve_stall_s or self.flow.read_paused:
            if not self.flow.read_paused and self._body_bytes - size < limits.serve_body_rate * limits.serve_stall_s:
                self.refuse(408, f"less than {limits.serve_body_rate} bytes of the body per second.")
            self._window = now, self._body_bytes

    def _check_stopping(self, stopping_s: float) -> None:
        if self._unanswered:
            if stopping_s > self._limits.serve_drain_s:
                self._end(503, "the server is stopping.", linger=False)
        elif stopping_s > QUIET_S:
            if self._waits is _Waits.REQUEST:
                self.transport.close()
            else:
                self._end(503, "the server is stopping.", linger=False)

    def _wait(self, what: _Waits) -> None:
        self._waits = what
        self._since = self.loop.time()
        self.pool.waiting.pop(self, None)
        if what is not _Waits.BODY:
            self.pool.uploading.pop(self, None)
        if what is _Waits.REQUEST:
            self._framing_bytes = 0
        if what in (_Waits.REQUEST, _Waits.HEADERS, _Waits.BODY) and not self._unanswered:
            self.pool.waiting[self] = None

    def _release(self) -> None:
        self.pool.body_bytes -= self._held_bytes
        self._held_bytes = 0

    def _too_large(self) -> tuple[int, str]:
        return 413, f"the request is larger than {self.pool.max_body_bytes} bytes."


def _response(status: int, message: str) -> bytes:
    body = json.dumps({"error": message}).encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in HEADERS),
        *(["retry-after: 1"] if status in (429, 503) else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
