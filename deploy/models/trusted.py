"""Models of the user's own code that manifests may name: those that the user named before on this machine.

A manifest records the request that builds its model, so that ``deploy check`` needs no model. Such a request may name
any function, and the manifest may have come from somebody else. Code is therefore run from a manifest only if this user
named the same function with the same options before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from deploy.core.errors import UsageError
from deploy.models.request import ModelRequest

TRUST_ALL = "DEPLOY_TRUST_MANIFESTS"
"""Environment variable that lets every manifest name code."""

_in_this_process: set[str] = set()


def remember(request: ModelRequest) -> None:
    """Record that the user named a model of their own code."""
    key = _key(request)
    if key in _known():
        return
    _in_this_process.add(key)
    with contextlib.suppress(OSError):  # a home that cannot be written: known in this process only
        _list().parent.mkdir(parents=True, exist_ok=True)
        with _list().open("a", encoding="ascii") as file:
            file.write(f"{key}\n")


def require_trusted(request: ModelRequest, manifest: Path) -> None:
    """Refuse a request of a manifest that names code which this user has not named.

    Raises:
        UsageError: the code would have been run only because the manifest names it.
    """
    if not names_code(request.name) or os.environ.get(TRUST_ALL) == "1" or _key(request) in _known():
        return
    raise UsageError(
        f"{manifest}: its manifest names the code {request.name!r}, which you have not run on this machine before.",
        f"if you trust it: {TRUST_ALL}=1, or name it: deploy check {request.name} --onnx FILE",
    )


def names_code(name: str) -> bool:
    """Return whether a model name is ``package.module:factory`` or ``file.py:factory``."""
    return ":" in name


def _key(request: ModelRequest) -> str:
    where, _, attribute = request.name.rpartition(":")
    local = where.endswith(".py") or Path(where.partition(".")[0]).exists() or Path(f"{where}.py").exists()
    place = str(Path(where).resolve()) if local else where
    text = json.dumps([place, attribute, sorted(request.options.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _list() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "deploy-toolkit" / "named-models"


def _known() -> set[str]:
    try:
        return _in_this_process | set(_list().read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return _in_this_process
