"""What was found of accuracy, on disk: one file for a model and the images it was judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.core import records

SCHEMA = 1
KIND = "accuracy"
FOLDER = records.EVALUATION


def save(root: Path, slug: str, data: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], created: str) -> Path:
    """Keep the accuracy of a model's artifacts, in place of what was found earlier on the same images.

    Args:
        root: the artifacts directory.
        slug: of the model.
        data: summary of the images; its ``digest`` and ``split`` name them.
        rows: one for each runner, plain values; ``digest`` tells which file or weights it ran.
        created: when, ISO 8601.

    Raises:
        StorageError: the disk refused.
    """
    key = records.key_of([slug, data["digest"], data["split"]])
    path = root / slug / FOLDER / f"{slug}.{key}.json"
    records.save(path, KIND, SCHEMA, {"data": dict(data), "rows": [dict(row) for row in rows], "created": created})
    return path


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote: ``data``, ``rows``, ``created``.

    Raises:
        ArtifactError: it is damaged, or of another schema.
    """
    return records.load(path, KIND, SCHEMA)
