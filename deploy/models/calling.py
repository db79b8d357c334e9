"""How a module of the user is called: which parameter of ``forward`` takes each input."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.modules.lazy import LazyModuleMixin

from deploy.core.errors import InputSpecError, ModelError
from deploy.core.model import CallForm, Model
from deploy.core.tensors import TensorSpec
from deploy.support.dispatch import beside_compiler
from deploy.support.precision import computed_in
from deploy.support.state import content_of, has_storage

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANNOTATIONS = {
    "list": ("list", "sequence", "iterable", "collection"),
    "tuple": ("tuple", "namedtuple"),
    "dict": ("dict", "mapping", "ordereddict", "mutablemapping"),
    "tensor": ("tensor", "floattensor", "longtensor"),
}
"""Words of an annotation by what it asks for."""


def unwrapped(module: torch.nn.Module) -> tuple[torch.nn.Module, list[str]]:
    """Return a module without wrappers for several devices and compilation, and notes that name the wrappers."""
    module, kinds = without_wrapper(module)
    for parent in list(module.modules()):
        parent._compiled_call_impl = None  # set by ``module.compile()``
        for name, child in list(parent.named_children()):
            inner, more = without_wrapper(child)
            if more:
                setattr(parent, name, inner)
                kinds += more
    return module, [f"exported without the wrapper {kind}" for kind in dict.fromkeys(kinds)]


def without_wrapper(module: torch.nn.Module) -> tuple[torch.nn.Module, list[str]]:
    """Return the module inside a wrapper, left as it is, and the names of its wrappers."""
    kinds: list[str] = []
    while True:
        if isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            inner: Any = module.module
        elif type(module).__name__ == "OptimizedModule":  # of torch._dynamo, whose import takes a second
            inner = module._orig_mod
        else:
            return module, kinds
        kinds.append(type(module).__name__)
        module = inner


def refuse_scripted(module: torch.nn.Module, model: str) -> None:
    """Refuse a module that is TorchScript or contains it; ``model`` is its name.

    Raises:
        ModelError: it is.
    """
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            named = f"the module {path}" if path else "the model"
            raise ModelError(
                f"{model}: {named} is TorchScript, which cannot be exported.", "build it from its Python class"
            )


def with_form(model: Model) -> Model:
    """Choose how the inputs of a model are passed to ``forward``, and initialize lazy layers by a call.

    An input that is named like a parameter is passed there; the others take the remaining positional parameters in
    order. Where one parameter is left, the inputs may be items of a list, a tuple or a dictionary: the first of these
    with which the module runs is used. Notes say what names do not decide.

    Raises:
        InputSpecError: ``forward`` takes more or fewer inputs.
    """
    parameters = inspect.signature(model.module.forward).parameters
    forms = [
        (model.replace(form=form, notes=(*model.notes, note) if note else model.notes))
        for form, note in _forms(model.name, parameters, model.inputs)
    ]
    lazy = [name for name, part in model.module.named_modules() if isinstance(part, LazyModuleMixin)]
    if len(forms) == 1 and not lazy:
        return forms[0]
    runs = (candidate for candidate in forms if _runs(candidate, keep_state=bool(lazy)))
    chosen = next(runs, forms[0])
    if lazy:
        note = f"the lazy layers {', '.join(lazy)} were initialized by an example: as built, their weights are random"
        weights = dataclasses.replace(chosen.weights, trained=False)
        chosen = chosen.replace(notes=(*chosen.notes, note), weights=weights)
    return chosen


def _forms(
    model: str, parameters: Mapping[str, inspect.Parameter], specs: Sequence[TensorSpec]
) -> list[tuple[CallForm, str]]:
    """Return the possible ways to pass the inputs, the most likely first, each with a note for the user or ``""``."""
    kinds = {item.kind for item in parameters.values()}
    several, any_name = inspect.Parameter.VAR_POSITIONAL in kinds, inspect.Parameter.VAR_KEYWORD in kinds
    names = [spec.name for spec in specs]
    single = {name: item for name, item in parameters.items() if item.kind in (*_POSITIONAL, item.KEYWORD_ONLY)}
    named = {name: name for name in names if name in single}
    rest = [name for name in names if name not in named]
    free = [name for name, item in single.items() if item.kind in _POSITIONAL and name not in named]
    required = {name for name, item in single.items() if item.default is item.empty and name not in named}
    taken, extra = dict(zip(free, rest, strict=False)), rest[len(free) :]
    plain, packed = [], []
    if required <= set(taken) and (not extra or several or any_name):
        by_name = {} if several else {name: name for name in extra}
        order = ", ".join(f"{name} as {parameter}" for parameter, name in taken.items())
        certain = not taken or len(names) == len(parameters) == 1
        note = "" if certain else f"inputs are passed by position, since forward has no such names: {order}"
        plain.append((_bind(parameters, {**named, **taken, **by_name}, extra if several else []), note))
    container = container_of(single[free[0]]) if free else ""
    if rest and free and required <= {free[0]} and not several and container != "tensor":
        items: dict[str, Any] = {"list": rest, "tuple": tuple(rest), "dict": {name: name for name in rest}}
        for kind in sorted(items, key=lambda kind: kind != container):
            note = f"forward takes {', '.join(rest)} as a {kind} in the parameter {free[0]}"
            packed.append((_bind(parameters, {**named, free[0]: items[kind]}, []), note))
    forms = packed + plain if container else plain + packed
    if not forms:
        takes = ", ".join(map(str, parameters.values()))
        raise InputSpecError(
            f"{model}: --input gives {', '.join(names)}; the model takes forward({takes}).",
            "give one --input for each parameter without a default, with its name",
        )
    return forms


def container_of(parameter: inspect.Parameter) -> str:
    """Return what a parameter is annotated with: ``list``, ``tuple``, ``dict``, ``tensor``, or ``""``."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", None) or str(annotation)
    word = text.partition("[")[0].rpartition(".")[2].lower()
    return next((kind for kind, words in _ANNOTATIONS.items() if word in words), "")


def _bind(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any], extra: Sequence[str]) -> CallForm:
    """Return the arguments: positional up to the first parameter without one, then by keyword."""
    rest = dict(given)
    args: list[Any] = []
    for name, item in parameters.items():
        must = extra or any(parameters[other].kind is item.POSITIONAL_ONLY for other in rest if other in parameters)
        if item.kind not in _POSITIONAL or (name not in rest and not must):
            break
        args.append(rest.pop(name, item.default))
    return (*args, *extra), rest


def ones(model: Model) -> dict[str, torch.Tensor]:
    """Return inputs of ones, or of the lowest values that the inputs take, at the sizes of the model."""
    device = next((item.device for item in model.module.parameters()), torch.device("cpu"))
    return {
        spec.name: torch.full(
            spec.concrete(model.sizes),
            1 if spec.bounds is None else spec.bounds[0],
            dtype=getattr(torch, spec.dtype),
            device=device,
        )
        for spec in model.inputs
    }


def _runs(model: Model, *, keep_state: bool) -> bool:
    """Return whether a module runs on tensors of ones; what the run changes is kept only if ``keep_state``."""
    tensors = ones(model)
    kept = [] if keep_state else [value for value in model.module.buffers() if has_storage(value) and not value.is_meta]
    buffers = [value.untyped_storage() for value in kept]
    before = [content_of(storage) for storage in buffers]  # of an expanded tensor, elements share their memory

    def run() -> None:
        with torch.no_grad() if keep_state else computed_in(torch.float32, model.module):
            model.call(tensors)

    try:
        beside_compiler(run)
    except Exception:
        return False
    finally:
        for storage, content in zip(buffers, before, strict=True):
            storage.copy_(content)
    return True
