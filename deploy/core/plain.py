"""Convert dataclasses to plain values for JSON, and back with type checks (msgspec)."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Convert dataclasses, tuples, paths and numpy scalars to dicts, lists, strings and numbers, in the same order."""
    return _listed(msgspec.to_builtins(value, enc_hook=_encode))


def from_plain(kind: type[T], values: Any) -> T:
    """Build a dataclass from plain values as read from JSON; unknown keys are ignored.

    Raises:
        ValueError: a field is missing or has the wrong type; the message names it.
    """
    return msgspec.convert(values, kind)


def _encode(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no plain form")


def _listed(value: Any) -> Any:
    """Tuples as lists, so that the result equals what is read back from JSON."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value
