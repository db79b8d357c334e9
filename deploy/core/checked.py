"""Documents that carry their own digest: a change to any byte of the text is seen.

It protects from accidents, not from who can write: that one can dump_checked anew. Against them stands a signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_NAME = "sha256"


class ChecksumError(ValueError):
    """A document is not what was written."""


def dump_checked(content: Mapping[str, Any]) -> str:
    """The text of a document: JSON, keys sorted, with its digest; one that it has already is replaced."""
    plain: dict[str, Any] = json.loads(json.dumps(content))  # as it will be read: keys of numbers are text
    plain.pop(_NAME, None)
    return _text({**plain, _NAME: _digest(plain)})


def load_checked(text: str) -> dict[str, Any]:
    """The content of a sealed text.

    Raises:
        ChecksumError: it is not what was written.
        ValueError: it is not JSON of an object.
    """
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"a {type(document).__name__}, not an object")
    content = {name: value for name, value in document.items() if name != _NAME}
    if document.get(_NAME) != _digest(content) or text != _text(document):
        raise ChecksumError("its content is not what was written")
    return content


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(content).rstrip("\n").encode()).hexdigest()
