"""Errors inside the user's own code: the lines of it that led there, without those of libraries and of this package."""

from __future__ import annotations

import os
import site
import sysconfig
import traceback
from pathlib import Path

_MOST = 3
_FOREIGN = tuple(
    str(folder.resolve()) + os.sep
    for folder in (
        Path(__file__).parents[1],
        Path(__file__).parents[2] / "exporters",
        *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
        *map(Path, (*site.getsitepackages(), site.getusersitepackages())),
    )
)
"""Folders of this package, of Python and of installed libraries."""


def told(exc: BaseException) -> str:
    """Return an error in one line, and below it the last lines of the user's code that led there, if there are any."""
    if isinstance(exc, SyntaxError) and exc.filename and exc.lineno:
        return f"{type(exc).__name__}: {exc.msg}\n  {_short(exc.filename)}:{exc.lineno}: {(exc.text or '').strip()}"
    own = [
        f"  {_short(frame.filename)}:{frame.lineno}, in {frame.name}: {frame.line or ''}"
        for frame in traceback.extract_tb(exc.__traceback__)
        if not frame.filename.startswith("<") and not str(Path(frame.filename).resolve()).startswith(_FOREIGN)
    ]
    return "\n".join([f"{type(exc).__name__}: {exc}", *own[-_MOST:]])


def _short(file: str) -> str:
    """Return a path relative to the working directory if it is below it."""
    path = Path(file).resolve()
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
