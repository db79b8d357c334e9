"""Records: JSON documents of what was measured; each carries its own digest and says its kind and schema."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.core.checked import ChecksumError, dump_checked, load_checked
from deploy.core.errors import ArtifactError, DigestError
from deploy.core.store import write_file

AGAIN = "measure again"
FOLDERS = ("bench", "evaluation", ".absent", ".sweeps")
"""Where they lie: the first two of a model's folder, the others of the artifacts directory."""

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
        path: where; its name is part of the record, so that one that was renamed is seen.
        kind: what it is.
        schema: of the content.
        content: plain values for JSON.

    Raises:
        StorageError: the disk refused.
    """
    write_file(path, dump_checked({"kind": kind, "schema": schema, "name": path.name, **content}).encode())


def load(path: Path, kind: str, schema: int) -> dict[str, Any]:
    """Read a record.

    Raises:
        ArtifactError: it is damaged, or of another kind or schema.
        DigestError: it is not what was written.
    """
    document = check(path)
    if document.get("kind") != kind:
        raise ArtifactError(f"{path}: not a record of {kind}.")
    if document.get("schema") != schema:
        raise ArtifactError(f"{path}: record schema {document.get('schema')!r}, this version reads {schema}.", AGAIN)
    return document


def check(path: Path) -> dict[str, Any]:
    """Hold a record against its own digest and name.

    Raises:
        ArtifactError: it cannot be read.
        DigestError: it is not what was written.
    """
    try:
        document = load_checked(path.read_text(encoding="utf-8"))
    except ChecksumError as exc:
        raise DigestError(f"{path}: its content is not what was recorded.", AGAIN) from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc}.") from exc
    if document.get("name") != path.name or path.is_symlink():
        raise DigestError(f"{path}: recorded as {document.get('name')}, and not a plain file of that name.", AGAIN)
    return document
