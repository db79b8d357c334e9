"""JSON documents with a checksum: a change to any byte of the text is detected.

A checksum protects against accidents. Somebody who can write the file can also write a new checksum; a signature
(`deploy.tools.sign`) protects against that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_CHECKSUM = "sha256"


class ChecksumError(ValueError):
    """A document differs from what was written."""


def dump_checked(content: Mapping[str, Any]) -> str:
    """Return plain values as JSON with sorted keys and a checksum, which replaces an earlier one."""
    plain: dict[str, Any] = json.loads(json.dumps(content))  # as it will be read: keys become strings
    plain.pop(_CHECKSUM, None)
    return _text({**plain, _CHECKSUM: _digest(plain)})


def load_checked(text: str) -> dict[str, Any]:
    """Return the content of a text that `dump_checked` wrote, without the checksum.

    Raises:
        ChecksumError: the text differs from what was written.
        ValueError: the text is not a JSON object.
    """
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"a {type(document).__name__}, not an object")
    content = {name: value for name, value in document.items() if name != _CHECKSUM}
    if document.get(_CHECKSUM) != _digest(content) or text != _text(document):
        raise ChecksumError("the text differs from what was written")
    return content


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(content).rstrip("\n").encode()).hexdigest()
