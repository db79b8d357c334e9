"""The user's own models: factories in Python modules or files, and ExportedPrograms."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils._pytree import tree_unflatten

from deploy.core.errors import InputSpecError, ModelError, UnknownNameError, UsageError
from deploy.core.model import CallForm, Model, Weights, fill_form
from deploy.core.tensors import Dim, TensorSpec, parse_input, with_ranges
from deploy.models.calling import refuse_scripted, unwrapped, with_form
from deploy.models.program_file import load_program
from deploy.models.request import ModelRequest
from deploy.models.trusted import remember
from deploy.support.user_code import told


def build_factory(request: ModelRequest) -> Model:
    """Build a model by calling ``pkg.module:factory`` or ``path/file.py:factory`` with the options as arguments.

    The reference may also name an instance of torch.nn.Module.

    Raises:
        ModelError: the factory cannot be imported, raises, or does not return a torch.nn.Module.
    """
    reference = request.name
    remember(request)
    where, _, attribute = reference.rpartition(":")
    module = _import(where)
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise UnknownNameError(f"attribute of {where}", attribute, public)
    factory = getattr(module, attribute)
    if isinstance(factory, torch.nn.Module) and request.options:
        raise UsageError(f"-o {next(iter(request.options))}: {reference} is a module, which takes no options.")
    try:
        built = factory if isinstance(factory, torch.nn.Module) else factory(**request.typed_options())
    except Exception as exc:
        raise ModelError(f"{reference} raised {told(exc)}") from exc
    if not isinstance(built, torch.nn.Module):
        raise ModelError(f"{reference} returned a {type(built).__name__}, not a torch.nn.Module.")
    return as_model(
        built,
        request,
        slug=f"{Path(where).stem if where.endswith('.py') else where.replace('.', '-')}-{attribute}",
        weights=Weights(source=f"as built by {reference}", trained=True, seed=request.seed),
        hint="add --input name:shape, for example --input input:batch,3,224,224",
    )


def as_model(module: torch.nn.Module, request: ModelRequest, *, slug: str, weights: Weights, hint: str) -> Model:
    """Return the model of a module of the user, with the inputs of its request; the module is changed.

    It is put in evaluation mode, and loses its wrappers. ``hint`` says how to give inputs.

    Raises:
        InputSpecError: the request has no inputs, or ``forward`` takes others.
        ModelError: the module, or a part of it, is TorchScript.
    """
    refuse_scripted(module, request.name)
    specs, sizes = parse_inputs(request)
    if not specs:
        raise InputSpecError(f"{request.name}: the inputs are not known.", hint)
    network, notes = unwrapped(module)
    network.eval()
    active = [name or "the model itself" for name, part in network.named_modules() if part.training]
    if active:
        notes.append(f"in training mode although eval() was called: {', '.join(active[:3])}")
    return with_form(
        Model(
            name=request.name,
            slug=slug,
            module=network,
            inputs=specs,
            sizes=sizes,
            weights=weights,
            notes=tuple(notes),
        )
    )


def _import(where: str) -> ModuleType:
    path = Path(where)
    is_file = where.endswith(".py")
    if is_file and not path.is_file():
        raise ModelError(f"{path}: no such file.")
    folder = str(path.resolve().parent) if is_file else str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return _import_file(path) if is_file else importlib.import_module(where)
    except Exception as exc:
        raise ModelError(f"{where}: import failed: {told(exc)}") from exc
    finally:
        sys.path.remove(folder)


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def parse_inputs(request: ModelRequest) -> tuple[tuple[TensorSpec, ...], dict[str, int]]:
    """Parse the texts of ``--input``; also return the sizes of their symbols.

    Raises:
        InputSpecError: a text has another form, or a name is repeated.
    """
    sizes: dict[str, int] = {"batch": 2}
    specs = []
    for text in request.inputs:
        spec, given = parse_input(text)
        specs.append(spec)
        sizes |= given
    repeated = sorted(name for name, count in Counter(spec.name for spec in specs).items() if count > 1)
    if repeated:
        raise InputSpecError(f"--input names {repeated[0]!r} twice.")
    return with_ranges(specs), sizes


def with_inputs(model: Model, request: ModelRequest) -> Model:
    """Replace the inputs of a model by those of ``--input``, if there are any.

    Raises:
        InputSpecError: the number of inputs, their rank or a fixed dimension does not fit the model.
    """
    specs, sizes = parse_inputs(request)
    if not specs:
        return model
    if len(specs) != len(model.inputs):
        raise InputSpecError(f"{model.name} has {len(model.inputs)} inputs, --input names {len(specs)}.")
    for spec, own in zip(specs, model.inputs, strict=True):
        if len(spec.shape) != len(own.shape):
            raise InputSpecError(f"--input {spec.name}: {len(spec.shape)} dimensions; {model.name} takes {own}.")
        for axis, (given, fixed) in enumerate(zip(spec.shape, own.shape, strict=True)):
            if isinstance(fixed, int) and given != fixed:
                raise InputSpecError(f"--input {spec}: {model.name} takes {own}; axis {axis} cannot differ.")
    renamed = {own.name: spec.name for own, spec in zip(model.inputs, specs, strict=True)}
    form = None if model.form is None else fill_form(model.form, renamed)
    return model.replace(inputs=specs, sizes={**model.sizes, **sizes}, form=form)


def build_program(request: ModelRequest) -> Model:
    """Load an ExportedProgram (``.pt2``); its dynamic dimensions become those of the model.

    Raises:
        UnsafePickleError: the file would run its author's code; it was not loaded.
        ModelError: the file is not an ExportedProgram, or needs another version of torch.
    """
    path = Path(request.name)
    program = load_program(path)
    if request.options:
        raise UsageError(f"{path}: an ExportedProgram takes no options.")
    specs, sizes, form = _program_inputs(program)
    model = Model(
        name=path.name,
        slug=path.stem,
        module=program.module(),
        inputs=specs,
        sizes=sizes,
        form=form,
        weights=Weights(source=path.name, trained=True),
    )
    return with_inputs(model, request)


def _program_inputs(
    program: torch.export.ExportedProgram,
) -> tuple[tuple[TensorSpec, ...], dict[str, int], CallForm]:
    """Return the inputs, a size for each dynamic dimension, and how the program takes them, constants included."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    sizes: dict[str, int] = {}
    symbols: dict[str, str] = {}
    specs = []
    leaves: list[Any] = []
    for item in program.graph_signature.input_specs:
        if item.kind is not InputKind.USER_INPUT:
            continue
        name = item.arg.name
        leaves.append(item.arg.value if isinstance(item.arg, ConstantArgument) else name)
        if isinstance(item.arg, ConstantArgument):
            continue
        value: Any = values[name]
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"input {name!r} of the program is a {type(value).__name__}, not a tensor.")
        shape: list[Dim] = []
        for axis, size in enumerate(value.shape):
            if isinstance(size, int):
                shape.append(size)
                continue
            default = "batch" if axis == 0 and "batch" not in symbols.values() else f"{name}_dim{axis}"
            symbol = symbols.setdefault(str(size), default)
            sizes[symbol] = max(2, int(size.node.hint or 2))
            shape.append(symbol)
        dtype = str(value.dtype).removeprefix("torch.")
        specs.append(TensorSpec(name=name, dtype=dtype, shape=tuple(shape)))
    return tuple(specs), sizes, tree_unflatten(leaves, program.call_spec.in_spec)
