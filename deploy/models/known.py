"""What is known of the models of each source without importing it: `catalog.json`, made by `benchmarks.catalog`.

Imports neither PyTorch nor a source, so that a mistyped name is refused at once and ``deploy models`` answers at once.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deploy.core import registry
from deploy.core.environment import version
from deploy.core.errors import (
    ArtifactError,
    MissingPackageError,
    ModelError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from deploy.core.store import Store
from deploy.models.archive_kind import check_is_weights
from deploy.models.request import is_checkpoint, split_key

SOURCES = "deploy.models.sources"
PRECEDENCE = ("zoo", "torchvision", "timm")
"""Sources that are searched first for a name without a prefix, in this order."""
FOLDERS = "hf"
"""The source that builds the models of folders."""
FAMILIES = "deploy.models.zoo"
CATALOG = Path(__file__).parent / "catalog.json"
PACKAGES = {"torchvision": "torchvision", "timm": "timm", "hf": "transformers"}
"""The package that a source of ours imports."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLine:
    """One model that can be exported.

    Attributes:
        parameters: number of values; None if the model was not built.
        input: shapes without the batch; None if the model was not built.
        summary: a description in one line; empty if the source has none.
    """

    name: str
    source: str
    parameters: int | None
    input: str | None
    summary: str


def source_names() -> list[str]:
    """Return the names of all model sources, those of `PRECEDENCE` first."""
    return [*PRECEDENCE, *(name for name in registry.names(SOURCES) if name not in PRECEDENCE)]


@cache
def recorded(source: str) -> Mapping[str, ModelLine]:
    """Return the models of a source in the catalog by name, of whatever version of its package."""
    return {
        name: ModelLine(name=f"{source}/{name}", source=source, parameters=parameters, input=shape, summary=summary)
        for name, (parameters, shape, summary) in _catalog().get(source, {}).get("models", {}).items()
    }


@cache
def names_without_import(source: str) -> tuple[str, ...] | None:
    """Return the names of a source's models; None: only the source knows.

    There are none if its package is not installed, and of the source `FOLDERS`, which tries any name.
    """
    if source == FOLDERS or not is_installed(source):
        return ()
    if source not in _catalog() or _catalog()[source]["version"] != version_of(source):
        return None
    if source == "zoo" and registry.names(FAMILIES) != registry.own_names(FAMILIES):
        return None  # a plug-in adds models to it
    return tuple(recorded(source))


def version_of(source: str) -> str:
    """Return the version of the package of a source, without a local part such as ``+cpu``; empty for the zoo."""
    return (version(PACKAGES[source]) or "").partition("+")[0] if source in PACKAGES else ""


def is_installed(source: str) -> bool:
    """Return whether the package of a source can be imported; other sources have none."""
    return source not in PACKAGES or importlib.util.find_spec(PACKAGES[source]) is not None


def require_installed(source: str) -> None:
    """Check that the package of a source can be imported.

    Raises:
        MissingPackageError: it cannot.
    """
    if not is_installed(source):
        raise MissingPackageError(PACKAGES[source], f"{source}/ models", f"deploy-toolkit[{source}]")


def is_folder(name: str) -> bool:
    """Return whether a name is a folder with a ``config.json``, and no model of a source."""
    prefix, slash, _ = name.partition("/")
    if slash and prefix in registry.names(SOURCES):
        return False
    folder = Path(name).expanduser()
    return (folder / "config.json").is_file() and (
        bool(slash) or all(name not in recorded(item) for item in PRECEDENCE)
    )


@cache
def _catalog() -> Mapping[str, dict[str, Any]]:
    found: Mapping[str, dict[str, Any]] = json.loads(CATALOG.read_bytes())
    return found


def check_name(name: str, artifacts: Path) -> None:
    """Refuse the name of a model that is certainly wrong, without building or importing anything.

    Args:
        name: as the user wrote it.
        artifacts: the artifacts directory, whose folders are names, too.

    Raises:
        DeployError: no such model, file, function or package.
    """
    path = split_key(name)[0].expanduser()
    if ":" in name:
        where, _, attribute = name.rpartition(":")
        _check_factory(where, attribute)
    elif path.suffix == ".py":
        _refuse_without_function(path)
    elif is_checkpoint(name) or path.suffix in (".pt2", ".onnx", ".engine"):
        if not path.is_file():
            kind = WeightsError if is_checkpoint(name) else ModelError if path.suffix == ".pt2" else ArtifactError
            raise kind(f"{name}: no such file.")
        if is_checkpoint(name):
            check_is_weights(path)
    elif not (path.exists() or (artifacts / name).is_dir()):
        _check_known(name, [folder.name for folder in Store(artifacts).folders()])


def _check_known(name: str, exported: Sequence[str]) -> None:
    prefix, slash, bare = name.partition("/")
    if prefix in registry.names(SOURCES) and slash:
        require_installed(prefix)
        known = names_without_import(prefix)
        if known and bare not in known:
            raise UnknownNameError(f"{prefix} model", bare, known)
    elif slash:
        known = registry.names(SOURCES)
        raise UnknownNameError("model source", prefix, known, f"there is no file or folder {name}")
    else:
        by_source = {source: names_without_import(source) for source in source_names() if source != FOLDERS}
        if all(names is not None and name not in names for names in by_source.values()):
            for source in by_source:
                if name in recorded(source):
                    require_installed(source)
            everything = [*exported, *(item for names in by_source.values() for item in names or ())]
            raise UnknownNameError("model", name, everything, "list the models: deploy models")


def functions_of(path: Path) -> tuple[list[str], list[str]]:
    """Return the functions and classes that a Python file defines, and all names it has, without running it.

    All names contain ``*`` if the file imports names that only a run would show.

    Raises:
        ModelError: no such file, or it is not Python.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file.")
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as exc:
        line = f":{exc.lineno}" if isinstance(exc, SyntaxError) and exc.lineno else ""
        reason = exc.msg if isinstance(exc, SyntaxError) else exc
        raise ModelError(f"{path}{line}: {type(exc).__name__}: {reason}.") from exc
    functions, names = [], []
    for node in ast.walk(tree):  # also within if and try
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
            if node in tree.body and not node.name.startswith("_"):
                functions.append(node.name)
        elif isinstance(node, ast.Name):
            names.append(node.id)
        elif isinstance(node, ast.alias):
            names.append((node.asname or node.name).partition(".")[0])
    if "__getattr__" in names or "globals" in names:
        names.append("*")
    return functions, names


def _check_factory(where: str, attribute: str) -> None:
    path = Path(where)
    if path.suffix == ".py":
        functions, names = functions_of(path)
        if attribute not in names and "*" not in names:
            raise UnknownNameError(f"function of {where}", attribute, functions, _list(functions, where))
        return
    top = where.partition(".")[0]
    folder = str(Path.cwd())
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        local = importlib.machinery.PathFinder.find_spec(top, [folder])
        if local is None:
            raise ModelError(f"{where}: there is no module {top!r} here, and none is installed.")


def _refuse_without_function(path: Path) -> None:
    functions = functions_of(path)[0]
    raise UsageError(f"{path}: the function that builds the model is missing.", _list(functions, str(path)))


def _list(functions: list[str], where: str) -> str:
    if not functions:
        return f"{where} defines no function or class at its top level"
    return f"name one of its functions: {', '.join(f'{where}:{name}' for name in functions[:8])}"
