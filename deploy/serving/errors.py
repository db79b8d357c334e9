"""Errors that a client receives."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is answered with an error status.

    Args:
        status: HTTP status; 4xx if the client can correct the request.
        message: what is wrong, for the client.
        retry_after_s: seconds after which the client may try again; None if trying again does not help.
    """

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
