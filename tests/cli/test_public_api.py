"""What ``deploy`` exports is complete, typed and public."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import deploy
from deploy.cli.main import ABOUT
from deploy.core import errors

FOREIGN = ("builtins", "typing", "types", "pathlib", "collections", "numpy", "torch")
PUBLIC = {name: getattr(deploy, name) for name in deploy.__all__}
FUNCTIONS = {name: item for name, item in PUBLIC.items() if inspect.isfunction(item)}
CLASSES = {name: item for name, item in PUBLIC.items() if inspect.isclass(item)}
FILES = {
    "adopt": "adopt",
    "bench": "measure_speed saturate",
    "check": "check",
    "compare": "compare_speed",
    "doctor": "doctor",
    "edit": "edit",
    "convert": "convert_precision",
    "evaluate": "evaluate_models",
    "export": "export_model convert",
    "inspect": "inspect",
    "models": "list_models layers",
    "optimize": "optimize",
    "package": "package_models",
    "profile": "profile_model",
    "quantize": "quantize",
    "report": "write_report compare_reports",
    "serve": "serve",
    "sign": "sign",
    "sweep": "run_sweep dry_run",
    "train": "train_model quantize",
    "trt": "build_engine trtexec_line inspect_engine preflight_engine",
    "upgrade-check": "upgrade_check",
    "verify": "verify verify_signature",
}
"""The functions of each command."""


def classes(hint: Any) -> Iterator[type]:
    """Yield the classes in an annotation."""
    arguments = typing.get_args(hint)
    if isinstance(hint, type) and not arguments:
        yield hint
    for argument in arguments:
        for item in argument if isinstance(argument, list) else [argument]:
            yield from classes(item)


def private(kind: type) -> bool:
    """Whether a class or its module is private."""
    return any(part.startswith("_") for part in (*kind.__module__.split("."), *kind.__qualname__.split(".")))


def own(hint: Any) -> list[type]:
    """Return the classes in an annotation that are not those of Python, NumPy or PyTorch."""
    return [kind for kind in classes(hint) if kind.__module__.split(".")[0] not in FOREIGN]


def test_every_command_is_a_function() -> None:
    assert set(FILES) == set(ABOUT)
    for names in FILES.values():
        assert set(names.split()) <= set(FUNCTIONS)


def test_every_error_is_exported() -> None:
    raised = {name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, Exception)}
    assert raised <= set(deploy.__all__)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(deploy.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == deploy._HOMES


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_and_returns_public_types(name: str) -> None:
    function = FUNCTIONS[name]
    assert inspect.getdoc(function), "no docstring"
    hints = typing.get_type_hints(function, localns=PUBLIC)
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), f"{parameter} is not typed"
        assert not parameter.name.startswith("_")
        assert hints.get(parameter.name, Any) is not Any, f"{parameter.name} has no type"
        assert f"{parameter.name}:" in (function.__doc__ or ""), f"{parameter.name} is not documented"
    assert hints.get("return", Any) is not Any
    for place, hint in hints.items():
        for kind in own(hint):
            assert not private(kind), f"{place}: {kind} is private"
            assert PUBLIC.get(kind.__name__) is kind, f"{place}: {kind} is not exported"


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_documented_and_holds_public_types(name: str) -> None:
    kind = CLASSES[name]
    assert inspect.getdoc(kind), "no docstring"
    if not dataclasses.is_dataclass(kind):
        return
    scope: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        try:
            hint = typing.get_type_hints(kind, localns=scope)[field.name]
        except NameError:  # imported for type checkers only: judged by its name
            hint = None
            assert not any(word.startswith("_") for word in str(field.type).replace("[", " ").split()), field.name
        for item in own(hint):
            assert not private(item), f"{field.name}: {item} is private"


def test_the_walk_finds_a_private_class() -> None:
    class _Hidden:
        """Private."""

    assert own(dict[str, list[_Hidden] | None]) == [_Hidden] and private(_Hidden)
