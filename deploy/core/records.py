"""Records: JSON documents of what was measured; each carries its own digest and says its kind and schema."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.core.errors import ArtifactError, DigestError
from deploy.core.store import write_file

AGAIN = "measure again"
FOLDERS = ("bench", "evaluation", ".absent")
"""Where they lie: the first two of a model's folder, the last of the artifacts directory."""

_KEY_DIGITS = 16


def key_of(values: Any) -> str:
    """Sixteen hexadecimal digits that name plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


def is_record(path: Path) -> bool:
    """Whether a file lies where records do and is named as they are: ``….KEY.json``."""
    named = re.fullmatch(rf"(.*\.)?[0-9a-f]{{{_KEY_DIGITS}}}\.json", path.name)
    return path.parent.name in FOLDERS and named is not None


def save(path: Path, kind: str, schema: int, content: Mapping[str, Any]) -> None:
    """Write a record, durably and at once.

    Args:
        path: where.
        kind: what it is.
        schema: of the content.
        content: plain values for JSON.

    Raises:
        StorageError: the disk refused.
    """
    document = {"kind": kind, "schema": schema, **content}
    document["sha256"] = _digest(document)
    write_file(path, (_text(document) + "\n").encode())


def load(path: Path, kind: str, schema: int) -> dict[str, Any]:
    """Read a record.

    Raises:
        ArtifactError: it is damaged, or of another kind or schema.
        DigestError: it is not what was written.
    """
    document = _read(path)
    if document.get("kind") != kind:
        raise ArtifactError(f"{path}: not a record of {kind}.")
    if document.get("schema") != schema:
        raise ArtifactError(f"{path}: record schema {document.get('schema')!r}, this version reads {schema}.", AGAIN)
    check(path, document)
    return document


def check(path: Path, document: dict[str, Any] | None = None) -> None:
    """Hold a record against its own digest.

    Raises:
        ArtifactError: it cannot be read.
        DigestError: it is not what was written.
    """
    content = dict(_read(path) if document is None else document)
    if content.pop("sha256", None) != _digest(content):
        raise DigestError(f"{path}: its content is not what was recorded.", AGAIN)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc}.") from exc
    if not isinstance(document, dict):
        raise ArtifactError(f"{path}: not a record.")
    return document


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True)


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(document).encode()).hexdigest()
