"""Text from strangers, as names of files and tensors are, made fit for a terminal."""

from __future__ import annotations

import re

_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing, what turns the direction of writing, and bytes that are no text."""


def visible(text: str) -> str:
    r"""The same text, with what cannot be seen written as an escape: ``\x1b``; lines stay lines."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
