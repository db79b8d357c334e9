"""Records: JSON documents of measurements. Each has a kind, a schema and a checksum."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.core.checked import ChecksumError, dump_checked, load_checked
from deploy.core.errors import ArtifactError, DigestError
from deploy.core.regular import read_document
from deploy.core.store import write_file

AGAIN = "measure again"
BENCH, EVALUATION = "bench", "evaluation"
"""Folders of records in a model's folder."""
SKIPPED, SWEEPS = ".skipped", ".sweeps"
"""Folders of records in the artifacts directory."""
DEPLOYMENT = "deployment.json"
"""Name of the record, in a model's folder, of the choice that ``deploy optimize`` made."""
FOLDERS = (BENCH, EVALUATION, SKIPPED, SWEEPS)

_KEY_DIGITS = 16


def key_of(values: Any) -> str:
    """Return 16 hexadecimal digits that identify plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]


def is_record(path: Path) -> bool:
    """Return whether a file is a `DEPLOYMENT`, or lies in a folder of records and has the name ``….KEY.json``."""
    if path.name == DEPLOYMENT:
        return True
    name = re.fullmatch(rf"(.*\.)?[0-9a-f]{{{_KEY_DIGITS}}}\.json", path.name)
    return path.parent.name in FOLDERS and name is not None


def save(path: Path, kind: str, schema: int, content: Mapping[str, Any]) -> None:
    """Write a record of plain values, complete and durable or not at all.

    Its name is part of the record, so that `check` detects a renamed file.
    """
    text = dump_checked({"kind": kind, "schema": schema, "name": path.name, **content})
    in_model = path.parent.name in FOLDERS or path.name == DEPLOYMENT
    depth = 2 if path.parent.name in (BENCH, EVALUATION) else 1 if in_model else 0
    write_file(path, text.encode(), depth=depth)


def load(path: Path, kind: str, schema: int) -> dict[str, Any]:
    """Read a record.

    Raises:
        ArtifactError: the record is damaged, or has another kind or schema.
        DigestError: the record was changed or renamed.
    """
    document = check(path)
    if document.get("kind") != kind:
        raise ArtifactError(f"{path}: not a record of the kind {kind!r}.")
    if document.get("schema") != schema:
        raise ArtifactError(
            f"{path}: the record has schema {document.get('schema')!r}; this version reads schema {schema}.", AGAIN
        )
    return document


def check(path: Path) -> dict[str, Any]:
    """Read a record of any kind and compare it with its checksum and name.

    Raises:
        ArtifactError: the file cannot be read.
        DigestError: the record was changed or renamed.
    """
    try:
        document = load_checked(read_document(path))
    except ChecksumError as exc:
        raise DigestError(f"{path}: the record was changed after it was written.", AGAIN) from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc}.") from exc
    if document.get("name") != path.name:
        raise DigestError(f"{path}: the record was written as {document.get('name')}.", AGAIN)
    return document
