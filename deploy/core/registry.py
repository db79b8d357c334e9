"""Plug-ins: the modules of a package, listed without importing them.

Third parties add a plug-in with an entry point whose group is the package's name.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from deploy.core.errors import DeployError, UnknownNameError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


T = TypeVar("T")


@cache
def _extras(package: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # slow to import, and `deploy --help` does not need it

    return {point.name: point for point in entry_points(group=package)}


@cache
def own_names(package: str) -> tuple[str, ...]:
    """Return the names of a package's own modules, sorted; a leading underscore marks a helper, not a plug-in."""
    spec = importlib.util.find_spec(package)
    paths = list(spec.submodule_search_locations or ()) if spec else []
    return tuple(sorted(module.name for module in pkgutil.iter_modules(paths) if not module.name.startswith("_")))


@cache
def names(package: str) -> tuple[str, ...]:
    """Return the names of a package's plug-ins, including third parties', sorted."""
    return tuple(sorted({*own_names(package), *_extras(package)}))


def load(package: str, name: str, kind: str = "plug-in") -> ModuleType:
    """Import a plug-in; ``kind`` is what one is called in the error message.

    Raises:
        UnknownNameError: there is no plug-in with this name.
    """
    if name in own_names(package):
        return importlib.import_module(f"{package}.{name}")
    if name not in names(package):
        raise UnknownNameError(kind, name, names(package), hint=f"known: {', '.join(names(package))}")
    module: ModuleType = _extras(package)[name].load()
    return module


def declaration(package: str, name: str, declared: type[T], kind: str) -> T:
    """Return what a plug-in declares about itself, ``BACKEND`` or ``TARGET``: the last word of the class in capitals.

    Raises:
        UnknownNameError: there is no plug-in with this name.
        DeployError: the plug-in cannot be imported, or declares nothing of this class.
    """
    variable = re.findall("[A-Z][a-z]+", declared.__name__)[-1].upper()
    try:
        found = getattr(load(package, name, kind), variable)
    except UnknownNameError:
        raise
    except Exception as exc:
        raise DeployError(f"the {kind} plug-in {name!r} cannot be loaded: {exc}.") from exc
    if not isinstance(found, declared):
        raise DeployError(
            f"the {kind} plug-in {name!r}: {variable} is not a {declared.__module__}.{declared.__name__}."
        )
    return found
