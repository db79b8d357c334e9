"""Modules in memory: their description by example inputs, and the copy that is judged and exported."""

from __future__ import annotations

import copy
import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from deploy.core.artifact import Artifact
from deploy.core.errors import InputSpecError, ModelError, UsageError
from deploy.core.model import Model, Weights, state_tensors
from deploy.core.tensors import DTYPES
from deploy.models.calling import container_of, refuse_scripted, without_wrapper
from deploy.models.checkpoint import find_state
from deploy.models.python import as_model
from deploy.models.request import ModelRequest, ModuleRequest
from deploy.models.weights import load_into, read_state_dict, state_digest

ModelLike = str | Path | Artifact | ModelRequest | torch.nn.Module
"""A model: its name as on the command line, the path of a file, an artifact, a request, or a module in memory."""

ExampleInputs = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor] | str | Sequence[str]
"""The inputs of a module: tensors in the order of the parameters of ``forward``, tensors by parameter, or texts of
``--input``. Where ``forward`` takes one list, tuple or dictionary of tensors, they are its items.

Of tensors, the name, the type and the shape count. The first axis is the dimension ``batch`` if all tensors agree in
its size; the other axes are fixed. An integer input is probed within the range of the example's values, one of zeros
and ones with both. Texts name other dynamic dimensions: ``tokens:batch,length=16:int64:0..30522``.
"""

WeightsLike = str | Path | Mapping[str, torch.Tensor]
"""The weights of a module: a checkpoint file, ``last.pt#ema`` for a part of it, or a state dict."""

_HINT = "give example tensors, inputs=x, or texts, inputs='x:batch,3,224,224'"
_MOST_DIGITS = 10**17


def module_request(
    module: torch.nn.Module,
    inputs: ExampleInputs | None = None,
    *,
    name: str | None = None,
    weights: WeightsLike | None = None,
) -> ModuleRequest:
    """Describe a module in memory by example inputs, for functions that take a model.

    Args:
        module: any module; of a compiled or data-parallel one, the module inside.
        inputs: see `deploy.ExampleInputs`; default: the module's ``example_input_array``, if it has one, else the
            inputs that an export of this module recorded.
        name: name of the model; default: the class and the first digits of the digest of the weights.
        weights: a checkpoint file or a state dict in place of the module's own weights; a module on the device ``meta``
            has none. The module itself is not changed.

    Raises:
        UsageError: not a module, or the name cannot be used.
        InputSpecError: the inputs are not tensors, or have names that ``forward`` does not.
        ModelError: a TorchScript module, or one whose weights have no values.
        WeightsError: the weights cannot be read, or do not fit the module.
    """
    inner = _checked(module)
    if weights is not None:
        inner = _with_weights(inner, weights)
    return ModuleRequest(name=name or derived_name(inner), inputs=describe(inner, inputs), module=inner)


def _checked(module: Any) -> torch.nn.Module:
    """Return the module inside a compiled or data-parallel one.

    Raises:
        UsageError: not a module.
        ModelError: a TorchScript module, which is compiled code.
    """
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{type(module).__name__} is not a model: give a name, a ModelRequest or a torch.nn.Module.")
    inner, _ = without_wrapper(module)
    refuse_scripted(inner, type(inner).__name__)
    return inner


def _with_weights(module: torch.nn.Module, weights: WeightsLike) -> torch.nn.Module:
    """Return a copy of a module with other weights; on the device ``meta``, it takes their tensors as its own."""
    _refuse_lazy(module)
    copied = _deep_copy(module, type(module).__name__, {})
    if isinstance(weights, Mapping):
        source, state = "weights=", find_state(weights, state_tensors(copied), "weights=")[0]
    else:
        source, state = str(weights), read_state_dict(str(weights), copied)[0]
    load_into(copied, state, source)
    return copied


def _refuse_lazy(module: torch.nn.Module) -> None:
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(value):
            raise ModelError(
                f"{type(module).__name__}: {name!r} is lazy: it has neither a shape nor values.",
                "call the module once with example inputs: module(x)",
            )


def derived_name(module: torch.nn.Module) -> str:
    """Return the name of a module that was given none: its class and the first digits of its digest."""
    return f"{re.sub('[^A-Za-z0-9_-]', '_', type(module).__name__)}-{weights_of(module).sha256:.8}"


def weights_of(module: torch.nn.Module) -> Weights:
    """Return the identity of a module: a digest of its structure (``repr``), parameters and buffers.

    Raises:
        ModelError: a parameter or buffer has no values.
    """
    _refuse_lazy(module)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_meta:
            saved = name in module.state_dict()
            raise ModelError(
                f"{type(module).__name__}: {name!r} is on the device meta and has no values.",
                "give a checkpoint or a state dict: deploy.export(module, inputs, weights='model.safetensors')"
                if saved
                else "no checkpoint contains it (persistent=False): build the module on the CPU",
            )
    digest = hashlib.sha256(f"{module!r}\0{state_digest(module)}".encode())
    return Weights(source=f"module in memory, {type(module).__name__}", trained=True, sha256=digest.hexdigest())


def describe(module: torch.nn.Module, inputs: ExampleInputs | None) -> tuple[str, ...]:
    """Return example inputs as texts of ``--input``; empty if there are none.

    Raises:
        InputSpecError: an input is not a tensor, or ``forward`` has no parameter for it.
    """
    if inputs is None:
        inputs = getattr(module, "example_input_array", None)  # a convention of Lightning
    if inputs is None:
        return ()
    if isinstance(inputs, str):
        return (inputs,)
    if not isinstance(inputs, torch.Tensor | Mapping | list | tuple) or len(inputs) == 0:
        raise InputSpecError(f"{type(module).__name__}: inputs={inputs!r:.80} has no example tensors.", _HINT)
    if not isinstance(inputs, torch.Tensor | Mapping) and all(isinstance(item, str) for item in inputs):
        return tuple(str(item) for item in inputs)
    named = _named(module, inputs)
    for name, value in named.items():
        _check(type(module).__name__, name, value)
    firsts = {value.shape[0] for value in named.values() if value.dim()}
    return tuple(_text(name, value, batched=len(firsts) == 1) for name, value in named.items())


def _named(module: torch.nn.Module, inputs: Any) -> dict[str, Any]:
    """Return example tensors by name; `with_form` finds where those go that are not named like a parameter."""
    parameters = inspect.signature(module.forward).parameters
    kinds = {item.kind for item in parameters.values()}
    positional, keyword = (
        [name for name, item in parameters.items() if item.kind in (own, item.POSITIONAL_OR_KEYWORD)]
        for own in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY)
    )
    if isinstance(inputs, Mapping):
        unknown = [str(name) for name in inputs if name not in keyword]
        free = [name for name in positional if name not in inputs]
        packed = len(unknown) > len(free) or (free and container_of(parameters[free[0]]) == "dict")
        if unknown and not packed and inspect.Parameter.VAR_KEYWORD not in kinds:
            has = ", ".join(keyword) or "none"
            raise InputSpecError(f"{type(module).__name__}: forward has no parameter {unknown[0]!r}; it has {has}.")
        known = {name: inputs[name] for name in keyword if name in inputs}
        return known | {str(name): value for name, value in inputs.items() if name not in known}
    items = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        positional += [f"input_{index}" for index in range(len(positional), len(items))]
    elif len(items) > len(positional):  # items of one list, or too many
        positional = [f"input_{index}" for index in range(len(items))]
    return dict(zip(positional, items, strict=False))


def _check(kind: str, name: str, value: Any) -> None:
    if not isinstance(value, torch.Tensor):
        raise InputSpecError(f"{kind}: the input {name!r} is a {type(value).__name__}, not a tensor.", _HINT)
    if _dtype(value) not in DTYPES:
        raise InputSpecError(f"{kind}: the input {name!r} is {_dtype(value)}, not one of {', '.join(DTYPES)}.")
    if 0 in value.shape:
        raise InputSpecError(f"{kind}: the input {name!r} of shape {list(value.shape)} has no values.")


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _text(name: str, value: torch.Tensor, *, batched: bool) -> str:
    dims = ["batch" if batched and axis == 0 else str(size) for axis, size in enumerate(value.shape)]
    text = f"{name}:{','.join(dims)}:{_dtype(value)}"
    if value.is_floating_point() or value.dtype is torch.bool or value.is_meta:
        return text
    low, high = int(value.min()), int(value.max())
    usual = low >= 0 and high <= 1  # a mask, or the number of a segment: zeros and ones are probed
    return text if usual or max(-low, high) >= _MOST_DIGITS else f"{text}:{low}..{high + 1}"


def build(request: ModuleRequest) -> Model:
    """Return the model of a module in memory, with a copy of the module.

    Raises:
        InputSpecError: the inputs are not known, or ``forward`` takes others.
        ModelError: the module cannot be copied.
    """
    weights = weights_of(request.module)
    return as_model(_copy(request), request, slug=request.name, weights=weights, hint=_HINT)


def _copy(request: ModuleRequest) -> torch.nn.Module:
    """Return a copy on the CPU, without gradients; parameters on the CPU share their memory."""
    memo: dict[int, Any] = {}
    for part in request.module.modules():
        tensors = [value for value in vars(part).values() if isinstance(value, torch.Tensor)]
        memo |= {id(value): value.detach().clone() for value in tensors}  # with a history, they cannot be copied
    for value in request.module.parameters():
        memo[id(value)] = torch.nn.Parameter(value.detach(), requires_grad=False)
    return _deep_copy(request.module, request.name, memo).cpu()


def _deep_copy(module: torch.nn.Module, name: str, memo: dict[int, Any]) -> torch.nn.Module:
    try:
        copied: torch.nn.Module = copy.deepcopy(module, memo)
    except Exception as exc:
        raise ModelError(
            f"{name}: the module cannot be copied: {type(exc).__name__}: {exc}",
            "give a function that builds it: FILE.py:FACTORY",
        ) from exc
    return copied
