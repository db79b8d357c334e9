"""The preprocessing that a user gives with ``--preprocess``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from deploy.core.errors import UsageError
from deploy.core.model import Preprocessing
from deploy.models.request import parse_options, typed

_TUPLES = ("crop", "mean", "std")


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Return the fields and values of texts such as ``resize=256``.

    Raises:
        UsageError: another form, or an unknown key.
    """
    known = {field.name for field in dataclasses.fields(Preprocessing)}
    values: dict[str, Any] = {}
    for key, text in parse_options(tuple(changes), "--preprocess").items():
        if key not in known:
            raise UsageError(f"--preprocess {key}: not one of {', '.join(sorted(known))}.")
        parts = tuple(typed(part) for part in text.split(","))
        values[key] = (parts * 2 if key == "crop" and len(parts) == 1 else parts) if key in _TUPLES else parts[0]
    return values


def override(preprocessing: Preprocessing | None, changes: Sequence[str]) -> Preprocessing | None:
    """Return the preprocessing with changes such as ``resize=256``, ``crop=224,224`` or ``mean=0.5,0.5,0.5``.

    Raises:
        UsageError: an unknown key, sizes that do not fit each other, or no preprocessing to change.
    """
    if not changes:
        return preprocessing
    values = parse_changes(changes)
    if preprocessing is None and not {"crop", "mean", "std"} <= set(values):
        raise UsageError(
            "--preprocess: the model has no preprocessing to change.", "give --preprocess crop=…, mean=… and std=…"
        )
    changed = dataclasses.replace(preprocessing, **values) if preprocessing else Preprocessing(**values)
    if len(changed.crop) != 2 or len(changed.mean) != len(changed.std):
        raise UsageError("--preprocess: crop needs two sizes, mean and std one value for each channel.")
    return changed
