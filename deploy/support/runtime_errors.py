"""Exceptions of runtimes, turned into errors of this package."""

from __future__ import annotations

from deploy.core.errors import BackendError
from deploy.core.runner import Feeds


def first_line(error: BaseException, max_length: int = 300) -> str:
    """Return the first line of an exception's message, or its class name where the message is empty.

    Args:
        error: the exception.
        max_length: number of characters after which the line is cut.
    """
    lines = str(error).strip().splitlines()
    return lines[0][:max_length] if lines else type(error).__name__


def run_error(runtime: str, feeds: Feeds, reason: str) -> BackendError:
    """Return the error for a runtime that failed to run.

    Args:
        runtime: display name, with details such as the precision.
        feeds: the inputs of the run; the message states their shapes.
        reason: the runtime's message.
    """
    shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in feeds.items())
    return BackendError(f"{runtime} failed on {shapes or 'no inputs'}: {reason}")
