"""Options of a server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """How models are served.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        max_batch: maximum batch size, in samples.
        max_delay_ms: how long a request may wait for others while a runner is free, in milliseconds.
        queue: maximum number of queued samples.
        timeout_ms: maximum time in the queue, in milliseconds.
        max_request_bytes: maximum size of a request.
        instances: runners per file, each with its own thread and copy of the weights.
        threads: threads per runner; None for all cores that this process may use.
        page: serve the demo page, which compares the files with PyTorch.
        allow_untrained: serve untrained weights.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_batch: int = 32
    max_delay_ms: float = 0.0
    queue: int = 1024
    timeout_ms: float = 10_000.0
    max_request_bytes: int = 64 << 20
    instances: int = 1
    threads: int | None = None
    page: bool = True
    allow_untrained: bool = False


def is_loopback(host: str) -> bool:
    """Return whether a host, with or without the brackets of URLs, is this machine only."""
    name = host.lower().removeprefix("[").removesuffix("]")
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def url_host(host: str) -> str:
    """Return a host as it is written in URLs."""
    return f"[{host}]" if ":" in host else host
