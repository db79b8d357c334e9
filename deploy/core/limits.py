"""The limits on files and requests from others.

Each limit can be raised with an environment variable: ``DEPLOY_LIMIT_IMAGE_PIXELS=500000000``. Child processes have the
same limits, since they inherit the environment.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass

from deploy.core.errors import UsageError

PREFIX = "DEPLOY_LIMIT_"
"""Prefix of the environment variables."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on what is read from files and requests of others; `docs/limits.md` has them with their reasons."""

    image_pixels: int = 1 << 27
    """Pixels of an image that is decoded."""
    archive_expansion: int = 100
    """Unpacked size of an archive over its packed size."""
    document_bytes: int = 1 << 26
    """Bytes of a JSON document: a manifest, a record, a package's list, a signature."""


@functools.cache
def limits() -> Limits:
    """Return the limits, with those that the environment sets.

    Raises:
        UsageError: a variable names no limit, or its value is not a positive integer.
    """
    names = [field.name for field in dataclasses.fields(Limits)]
    values: dict[str, int] = {}
    for variable in sorted(os.environ):
        if not variable.startswith(PREFIX):
            continue
        name, text = variable.removeprefix(PREFIX).lower(), os.environ[variable]
        if name not in names:
            raise UsageError(f"{variable}: no such limit.", f"limits: {', '.join(names)}")
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text)):
            raise UsageError(f"{variable}={text}: not a positive integer.")
        values[name] = int(text)
    return Limits(**values)
