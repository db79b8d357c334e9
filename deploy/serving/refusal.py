"""Why a request is not answered, as HTTP says it."""

from __future__ import annotations


class Refusal(Exception):
    """A request that gets a status instead of an answer.

    Args:
        status: of HTTP; 4xx where the client can mend it.
        message: what is wrong, for the client.
        retry_after_s: seconds after which trying again makes sense; None where it does not.
    """

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
