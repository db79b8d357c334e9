"""List the models that can be exported (``deploy models``).

The lines come from `deploy.models.known`; only a model that is not in the catalog is built.
"""

from __future__ import annotations

import fnmatch

from deploy.core.errors import UnknownNameError
from deploy.models.known import (
    FOLDERS,
    SOURCES,
    ModelLine,
    is_folder,
    is_installed,
    names_without_import,
    recorded,
    require_installed,
    source_names,
)


def list_models(pattern: str | None = None) -> list[ModelLine]:
    """List models with their parameters and inputs.

    Args:
        pattern: a name or shell pattern, with or without the source (``resnet*``, ``zoo/*``), or a model of a source
            that does not list its models. Default: all models.

    Raises:
        UnknownNameError: no model matches.
        MissingPackageError: the pattern names a source whose package is not installed.
    """
    sources = source_names()
    prefix, slash, _ = (pattern or "").partition("/")
    if slash and prefix in sources:
        require_installed(prefix)
    names = {source: _names(source) for source in sources if not (slash and prefix in sources) or source == prefix}
    matches = [
        (source, bare)
        for source in names
        for bare in names[source]
        if pattern is None or fnmatch.fnmatch(bare, pattern) or fnmatch.fnmatch(f"{source}/{bare}", pattern)
    ]
    if pattern is not None and not matches:
        if is_folder(pattern) or pattern.startswith(f"{FOLDERS}/"):
            from deploy.models.layers import measured

            return [measured(ModelLine(name=pattern, source=FOLDERS, parameters=None, input=None, summary=""))]
        for source in sources:
            if any(fnmatch.fnmatch(bare, pattern) for bare in recorded(source)):
                require_installed(source)
        raise UnknownNameError("model", pattern, [bare for source in names for bare in names[source]])
    return [_line(source, bare, build=pattern is not None or source != "timm") for source, bare in matches]


def _names(source: str) -> list[str]:
    known = names_without_import(source)
    if known is not None or not is_installed(source):
        return list(known or ())
    from deploy.models.resolve import known_names  # imports the source

    return known_names(source)


def _line(source: str, bare: str, *, build: bool) -> ModelLine:
    known = recorded(source).get(bare)
    if known is None and not build:  # of another version of timm, which has hundreds
        return ModelLine(name=f"{source}/{bare}", source=source, parameters=None, input=None, summary="")
    return known or built_line(source, bare)


def built_line(source: str, bare: str) -> ModelLine:
    """Return the line of a model that is built for it, without memory for its weights."""
    from deploy.core import registry
    from deploy.core.errors import DeployError
    from deploy.models.layers import measured

    summary = registry.load(SOURCES, source).summary(bare)
    line = ModelLine(name=f"{source}/{bare}", source=source, parameters=None, input=None, summary=summary)
    try:
        return measured(line)
    except (DeployError, RuntimeError, NotImplementedError):  # its constructor computes with its weights
        return line
