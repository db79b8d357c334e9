"""Exceptions of runtimes, turned into errors of this package."""

from __future__ import annotations

from deploy.core.errors import BackendError
from deploy.core.runner import Feeds


def first_line(error: BaseException, max_length: int = 300) -> str:
    """Return the first line of an exception's message, cut if it is long; its class name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:max_length] if lines else type(error).__name__


def run_error(runtime: str, feeds: Feeds, reason: str) -> BackendError:
    """Return the error for a runtime that failed to run; its message states the shapes of the inputs."""
    shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in feeds.items())
    return BackendError(f"{runtime} failed on {shapes or 'no inputs'}: {reason}")
