"""Models of the user's own: a factory in a module or a file, and an ExportedProgram."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from deploy.core.errors import InputSpecError, ModelError, UnknownNameError, UsageError
from deploy.core.model import Model, Weights
from deploy.core.tensors import Dim, TensorSpec, parse_input
from deploy.models.request import ModelRequest, typed


def build_factory(request: ModelRequest, reference: str) -> Model:
    """Call ``pkg.module:factory`` or ``path/file.py:factory``.

    Raises:
        ModelError: it cannot be imported, or does not return a module.
        InputSpecError: it does not say what it takes, and neither does ``--input``.
    """
    where, _, attribute = reference.rpartition(":")
    module = _import(where)
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise UnknownNameError(f"attribute of {where}", attribute, public)
    factory = getattr(module, attribute)
    options = {key: typed(value) for key, value in request.options.items()}
    try:
        built = factory if isinstance(factory, torch.nn.Module) else factory(**options)
    except Exception as exc:
        raise ModelError(f"{reference} raised {type(exc).__name__}: {exc}") from exc
    if not isinstance(built, torch.nn.Module):
        raise ModelError(f"{reference} returned a {type(built).__name__}, not a torch.nn.Module.")
    specs, sizes = _parse(request)
    if not specs:
        raise InputSpecError(
            f"{reference}: nothing tells what its inputs are.",
            "add --input name:shape, e.g. --input input:batch,3,224,224",
        )
    return Model(
        name=reference,
        slug=f"{Path(where).stem if where.endswith('.py') else where.replace('.', '-')}-{attribute}",
        module=built.eval(),
        inputs=specs,
        sizes=sizes,
        keywords=_keywords(built, specs),
        weights=Weights(source=f"as built by {reference}", trained=True, seed=request.seed),
    )


def _import(where: str) -> ModuleType:
    if not where.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(where)
        except Exception as exc:
            raise ModelError(f"{where} cannot be imported: {type(exc).__name__}: {exc}") from exc
        finally:
            sys.path.remove(str(Path.cwd()))
    path = Path(where)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path}: cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        raise ModelError(f"{path} cannot be imported: {type(exc).__name__}: {exc}") from exc
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _parse(request: ModelRequest) -> tuple[tuple[TensorSpec, ...], dict[str, int]]:
    sizes: dict[str, int] = {"batch": 2}
    specs = []
    for text in request.inputs:
        spec, given = parse_input(text)
        specs.append(spec)
        sizes |= given
    doubled = {spec.name for spec in specs if [item.name for item in specs].count(spec.name) > 1}
    if doubled:
        raise InputSpecError(f"--input names {sorted(doubled)[0]!r} twice.")
    return tuple(specs), sizes


def with_inputs(model: Model, request: ModelRequest) -> Model:
    """The model with its inputs replaced by those of ``--input``, where there are any."""
    specs, sizes = _parse(request)
    if not specs:
        return model
    if len(specs) != len(model.inputs):
        raise InputSpecError(f"{model.name} has {len(model.inputs)} inputs, --input names {len(specs)}.")
    for spec, own in zip(specs, model.inputs, strict=True):
        if len(spec.shape) != len(own.shape):
            raise InputSpecError(f"--input {spec.name}: {len(spec.shape)} dimensions; {model.name} takes {own}.")
        clash = [
            axis
            for axis, (asked, fixed) in enumerate(zip(spec.shape, own.shape, strict=True))
            if isinstance(fixed, int) and asked != fixed
        ]
        if clash:
            raise InputSpecError(f"--input {spec}: {model.name} takes {own}; axis {clash[0]} cannot differ.")
    return model.replace(inputs=specs, sizes={**model.sizes, **sizes})


def _keywords(module: torch.nn.Module, specs: tuple[TensorSpec, ...]) -> frozenset[str]:
    """Inputs whose names are parameters of ``forward`` go by keyword, where all of them are."""
    import inspect

    parameters = inspect.signature(module.forward).parameters
    named = [spec.name for spec in specs]
    return frozenset(named) if all(name in parameters for name in named) and len(named) > 1 else frozenset()


def build_program(request: ModelRequest, path: Path) -> Model:
    """Open an ExportedProgram (``.pt2``); its own dynamic dimensions are the model's.

    Raises:
        ModelError: it is not one, or needs another version of torch.
    """
    try:
        program = torch.export.load(str(path))
    except Exception as exc:
        raise ModelError(f"{path}: not an ExportedProgram this version of torch can read: {exc}") from exc
    if request.options:
        raise UsageError(f"{path}: an ExportedProgram takes no options.")
    specs, sizes, keywords = _program_inputs(program)
    return Model(
        name=path.name,
        slug=path.stem,
        module=program.module(),
        inputs=specs,
        sizes=sizes,
        keywords=keywords,
        weights=Weights(source=path.name, trained=True),
    )


def _program_inputs(
    program: torch.export.ExportedProgram,
) -> tuple[tuple[TensorSpec, ...], dict[str, int], frozenset[str]]:
    user = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in user]
    sizes: dict[str, int] = {}
    symbols: dict[str, str] = {}
    specs = []
    for node in nodes:
        value: Any = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"input {node.name!r} of the program is a {type(value).__name__}, not a tensor.")
        shape: list[Dim] = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                shape.append(size)
                continue
            default = "batch" if axis == 0 and "batch" not in symbols.values() else f"{node.name}_dim{axis}"
            symbol = symbols.setdefault(str(size), default)
            sizes[symbol] = max(2, int(size.node.hint or 2))
            shape.append(symbol)
        dtype = str(value.dtype).removeprefix("torch.")
        specs.append(TensorSpec(name=node.name, dtype=dtype, shape=tuple(shape)))
    inner: Mapping[str, Any] = program.example_inputs[1] if program.example_inputs else {}
    return tuple(specs), sizes, frozenset(inner)
