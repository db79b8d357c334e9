"""Plug-ins are files: a package's modules are its registry, listed without importing them.

Third parties add to a registry with an entry point whose group is the package's name.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from deploy.core.errors import UnknownNameError


@cache
def _extras(package: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=package)}


@cache
def names(package: str) -> tuple[str, ...]:
    """Names of the plug-ins in ``package``, sorted; a leading underscore marks a helper, not a plug-in."""
    spec = importlib.util.find_spec(package)
    paths = list(spec.submodule_search_locations or ()) if spec else []
    found = {module.name for module in pkgutil.iter_modules(paths) if not module.name.startswith("_")}
    return tuple(sorted(found | set(_extras(package))))


def load(package: str, name: str, kind: str = "plug-in") -> ModuleType:
    """Import one plug-in.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in names(package):
        raise UnknownNameError(kind, name, names(package), hint=f"known: {', '.join(names(package))}")
    if name in _extras(package):
        module: ModuleType = _extras(package)[name].load()
        return module
    return importlib.import_module(f"{package}.{name}")
