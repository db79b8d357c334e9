"""``package.json``: lists every file of a package with its digest, and what was checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.core import records
from deploy.core.artifact import sha256
from deploy.core.errors import ArtifactError
from deploy.core.names import SIGNATURE
from deploy.core.plain import from_plain
from deploy.core.regular import is_file

PACKAGE = "package.json"
KIND, SCHEMA = "package", 1
_UNLISTED = {PACKAGE, SIGNATURE}


def write_package(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the ``package.json`` of a folder, with plain values to record beside the files."""
    files = {name: sha256(folder / name) for name in _files(folder)}
    records.save(folder / PACKAGE, KIND, SCHEMA, {**content, "files": files})


def read_package(folder: Path) -> dict[str, Any]:
    """Return the content of a package's ``package.json``.

    Raises:
        ArtifactError: the folder is not a package, or its files were changed.
    """
    problems = check_package(folder / PACKAGE)
    if problems:
        raise ArtifactError(problems[0])
    return records.load(folder / PACKAGE, KIND, SCHEMA)


def check_package(path: Path) -> list[str]:
    """Return the problems of the package of a ``package.json``: missing, unlisted and changed files."""
    try:
        listed = from_plain(dict[str, str], records.load(path, KIND, SCHEMA).get("files"))
        folder, present = path.parent, _files(path.parent)
        missing = sorted(set(listed) - set(present))
        problems = [f"{folder / name}: missing, but the package lists it." for name in missing]
        for name in present:
            if name not in listed:
                problems.append(f"{folder / name}: the package does not list it.")
            elif not is_file(folder / name) or sha256(folder / name) != listed[name]:
                problems.append(f"{folder / name}: the content differs from the package's list.")
    except ArtifactError as exc:
        return [exc.message]
    except ValueError as exc:
        return [f"{path}: damaged: {exc}."]
    except OSError as exc:
        return [f"{path.parent}: cannot be read: {exc.strerror}."]
    return problems


def _files(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for name in (path.relative_to(folder).as_posix() for path in files) if name not in _UNLISTED)
