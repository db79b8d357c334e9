"""Options of a backend's runner, read from keyword arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from deploy.core.errors import UnknownNameError, UsageError
from deploy.core.plain import from_plain

T = TypeVar("T")


def read_options(kind: type[T], options: Mapping[str, Any], backend: str) -> T:
    """Build the options dataclass of a runner from keyword arguments and check names and types.

    Raises:
        UnknownNameError: an option is not a field of the dataclass.
        UsageError: a value has the wrong type or is not one of the allowed values.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise UnknownNameError(f"{backend} option", name, known, f"options: {', '.join(known) or 'none'}")
    try:
        return from_plain(kind, dict(options))
    except ValueError as exc:
        raise UsageError(f"{backend} options: {exc}.") from exc
