"""Text from untrusted files, such as tensor names, made safe for a terminal."""

from __future__ import annotations

import re

_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, characters that change the direction of text, and surrogates (undecodable bytes)."""


def visible(text: str) -> str:
    r"""Escape invisible characters: ``\x1b``; newlines and tabs stay."""
    return _HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)
