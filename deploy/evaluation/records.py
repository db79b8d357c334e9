"""Accuracy records on disk: one file for each model and set of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.core import records

SCHEMA = 2
KIND = "accuracy"
FOLDER = records.EVALUATION


def save(root: Path, slug: str, data: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], created: str) -> Path:
    """Write the accuracy of a model's artifacts; an earlier record of the same ``digest`` and ``split`` is replaced.

    Raises:
        StorageError: the file cannot be written.
    """
    key = records.key_of([slug, data["digest"], data["split"]])
    path = root / slug / FOLDER / f"{slug}.{key}.json"
    records.save(path, KIND, SCHEMA, {"data": dict(data), "rows": [dict(row) for row in rows], "created": created})
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a record: ``data``, ``rows``, ``created``; `ArtifactError` if it is damaged or of another schema."""
    return records.load(path, KIND, SCHEMA)
