"""The list of a package: every file in it with its digest, and what was proven of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.core import records
from deploy.core.artifact import sha256
from deploy.core.errors import ArtifactError
from deploy.core.store import SIGNATURE

PACKAGE = "package.json"
KIND, SCHEMA = "package", 1
_BESIDE = {PACKAGE, SIGNATURE}


def write_package(folder: Path, content: Mapping[str, Any]) -> None:
    """List every file of a folder.

    Raises:
        StorageError: the disk refused.
    """
    files = {name: sha256(folder / name) for name in _names(folder)}
    records.save(folder / PACKAGE, KIND, SCHEMA, {**content, "files": files})


def read_package(folder: Path) -> dict[str, Any]:
    """What the list says beside the files.

    Raises:
        ArtifactError: it is no package, or one that was changed.
    """
    wrong = check_package(folder / PACKAGE)
    if wrong:
        raise ArtifactError(wrong[0])
    return records.load(folder / PACKAGE, KIND, SCHEMA)


def check_package(path: Path) -> list[str]:
    """What is wrong with a package, by its list."""
    try:
        listed: dict[str, str] = records.load(path, KIND, SCHEMA)["files"]
        folder, present = path.parent, _names(path.parent)
        wrong = [f"{folder / name}: missing; the package lists it." for name in sorted(set(listed) - set(present))]
        for name in present:
            if name not in listed:
                wrong.append(f"{folder / name}: the package does not list it.")
            elif (folder / name).is_symlink() or sha256(folder / name) != listed[name]:
                wrong.append(f"{folder / name}: its content is not what the package lists.")
    except ArtifactError as exc:
        return [exc.message]
    return wrong


def _names(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for name in (path.relative_to(folder).as_posix() for path in found) if name not in _BESIDE)
