"""Run a module and leave it, its inputs and the random generators as they were.

A forward may write to buffers, keep tables in plain attributes or draw random numbers. Every run must start from the
same state, or its result depends on the runs before it. Tensors are copied when an operator is about to write to them,
so that a module that writes nothing costs no memory.
"""

from __future__ import annotations

import operator
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeGuard

import numpy as np
import torch
from torch._ops import HigherOrderOperator
from torch.nn.parameter import is_lazy

from deploy.support.dispatch import DispatchMode

_STATISTICS = ("running_mean", "running_var")
"""Operands that batch and instance norms write to where one of these flags is set; not all schemas say so."""
_FLAGS = ("training", "train", "use_input_stats")

_CONTAINERS = (dict, list, set, deque, np.ndarray)
_CONSTANTS = frozenset(
    (bool, int, float, complex, str, bytes, type(None), tuple, torch.Size, torch.dtype, torch.device, torch.Tensor)
)
_OPAQUE = (torch.Tensor, torch.nn.Module, type, FunctionType, MethodType, BuiltinFunctionType, ModuleType, partial)
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_CALLED = ("_forward_hooks", "_forward_pre_hooks")
"""Functions that are called with a module; transformers adds some in the first call that has to keep hidden states."""
_OWN = frozenset(vars(torch.nn.Module()))
_DEPTH = 4

Content = tuple[torch.UntypedStorage, torch.UntypedStorage]
"""A storage and a copy of its content before a run."""


@dataclass(slots=True)
class Changes:
    """What a run changed, before it is restored.

    Attributes:
        tensors: names of parameters and buffers, as in ``named_buffers``, that were written to or replaced.
        attributes: names of plain attributes that were set, added or removed, with the module's name.
    """

    tensors: dict[str, None] = field(default_factory=dict)
    attributes: dict[str, None] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Both, in the order in which they were found."""
        return (*self.tensors, *self.attributes)


@cache
def _write_positions(function: Any) -> tuple[tuple[int, str, int | None], ...]:
    """Return the operands that an operator writes to: position, name, and position of the flag that it depends on."""
    arguments = function._schema.arguments
    flag = next((index for index, argument in enumerate(arguments) if argument.name in _FLAGS), None)
    return tuple(
        (index, argument.name, flag if argument.name in _STATISTICS else None)
        for index, argument in enumerate(arguments)
        if (argument.alias_info is not None and argument.alias_info.is_write)
        or (argument.name in _STATISTICS and flag is not None)
    )


def written(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the operands that an operator is about to write to."""
    tensors: list[torch.Tensor] = []
    for index, name, flag in _write_positions(function):
        if flag is None or flag >= len(args) or args[flag]:
            value = args[index] if index < len(args) else kwargs.get(name)
            tensors += [item for item in (value if isinstance(value, (list, tuple)) else [value]) if has_storage(item)]
    return tensors


def reentering(mode: Any, value: Any) -> Any:
    """Return the arguments of a higher-order operator; functions among them run within ``mode``."""
    if type(value) in (list, tuple):
        return type(value)(reentering(mode, item) for item in value)
    if not callable(value) or isinstance(value, (type, torch.Tensor)):
        return value

    def run(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return value(*args, **kwargs)

    return run


def has_storage(value: Any) -> TypeGuard[torch.Tensor]:
    """Return whether ``value`` is a tensor with strides and memory of its own, not a wrapper of other tensors."""
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return value.layout is torch.strided and not torch._C._functorch.is_functorch_wrapped_tensor(value)
    return isinstance(value, torch.nn.Parameter) and not is_lazy(value)


def content_of(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Return a copy of the memory of a tensor."""
    return torch.UntypedStorage(storage.nbytes()).copy_(storage)  # type: ignore[no-untyped-call]


def _layout(value: torch.Tensor) -> tuple[Any, ...]:
    return value.data_ptr(), value.dtype, value.shape, value.stride()


class _Writes(DispatchMode):
    """Copies tensors that existed before the run when an operator is about to write to them."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: set[int] = set()
        self.before: dict[int, Content] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return func(*reentering(self, args), **{key: reentering(self, item) for key, item in kwargs.items()})
        given = {item.untyped_storage()._cdata for item in args[:1] if has_storage(item)}
        for value in written(func, args, kwargs):
            storage = value.untyped_storage()
            given.add(storage._cdata)
            if storage._cdata not in self.made and storage._cdata not in self.before:
                with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
                    self.before[storage._cdata] = (storage, content_of(storage))
        result = func(*args, **kwargs)
        made = [item for item in (result if isinstance(result, (list, tuple)) else (result,)) if has_storage(item)]
        self.made.update({item.untyped_storage()._cdata for item in made} - given)  # a view is not new
        return result


@contextmanager
def unchanged(module: torch.nn.Module | None, *, traced: bool = False) -> Iterator[Changes]:
    """Restore at the end of this context what a run within it changes.

    Restored are: tensors that operators write to (parameters, buffers, inputs, globals), the attributes of the module
    and its parts, with the containers and objects in them, and the random states of PyTorch, Python and numpy.

    Args:
        module: the module that is run; None restores tensors and random states only.
        traced: the module is captured by an exporter rather than run. Operators are not observed then, since exporters
            have modes of their own; buffers are copied at the beginning, and parameters that are written to stay so.

    Yields:
        What was changed; complete at the end of the context.
    """
    changes = Changes()
    snapshot = _Snapshot(module, buffers=traced)
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    writes = _Writes()
    try:
        if traced:
            yield changes
        else:
            with writes, _not_compiled():
                yield changes
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        snapshot.restore(changes, writes.before)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A container and a shallow copy of it; ``name`` is its attribute, or the module whose attributes it holds."""

    name: str
    owner: bool
    container: Any
    before: Any

    def changed(self) -> list[str]:
        """Return the names of what changed."""
        container, before = self.container, self.before
        if isinstance(container, torch.Generator):
            return [] if torch.equal(container.get_state(), before) else [self.name]
        if isinstance(container, np.ndarray):
            return [] if container.tobytes() == before.tobytes() else [self.name]
        if isinstance(container, set):
            return [] if container == before else [self.name]
        same = len(container) == len(before)
        if not isinstance(container, dict):
            return [] if same and all(map(operator.is_, container, before)) else [self.name]
        if same and container.keys() == before.keys() and all(map(operator.is_, container.values(), before.values())):
            return []
        missing = object()
        keys = dict.fromkeys([*before, *container])
        found = [key for key in keys if container.get(key, missing) is not before.get(key, missing)]
        return [f"{self.name}.{key}".strip(".") if self.owner else self.name for key in found]

    def restore(self) -> None:
        if isinstance(self.container, torch.Generator):
            self.container.set_state(self.before)
        elif isinstance(self.container, np.ndarray):
            self.container[...] = self.before
        else:
            self.container.clear()
            (self.container.update if isinstance(self.container, (dict, set)) else self.container.extend)(self.before)


def _copy(container: Any) -> Any:
    plain = next(kind for kind in _CONTAINERS if isinstance(container, kind))  # a subclass may not be copyable
    return container.copy() if plain is np.ndarray else plain(container)


@contextmanager
def _not_compiled() -> Iterator[None]:
    """Run functions of `torch.compile` without compiling them, which does not work while operators are observed."""
    if "torch._dynamo" not in sys.modules:  # importing it takes two seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


class _Snapshot:
    """Attributes of a module, and everything mutable that is reached from them."""

    def __init__(self, module: torch.nn.Module | None, *, buffers: bool) -> None:
        self.kept: list[_Kept] = []
        self.tensors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.copies: dict[int, Content] = {}
        self._seen: set[int] = set()
        for name, part in module.named_modules() if module is not None else ():
            for key, value in [*part._parameters.items(), *part._buffers.items()]:
                if has_storage(value):
                    self.tensors[f"{name}.{key}".strip(".")] = (value, value.data)
            if buffers:
                kept = [value.untyped_storage() for value in part._buffers.values() if has_storage(value)]
                self.copies |= {item._cdata: (item, content_of(item)) for item in kept if item.device.type != "meta"}
            attributes = vars(part)
            self.kept.append(_Kept(name, True, attributes, attributes.copy()))
            for key in _REGISTRIES:
                if type(attributes.get(key)) is dict:  # a scripted module has its own kind
                    self.kept.append(_Kept(name, True, attributes[key], attributes[key].copy()))
            for key in _CALLED:
                hooks = attributes.get(key)
                if isinstance(hooks, OrderedDict):
                    self.kept.append(_Kept(f"{name}.{key}".strip("."), False, hooks, hooks.copy()))
            for key in attributes.keys() - _OWN:
                if type(attributes[key]) not in _CONSTANTS:
                    self._add(attributes[key], f"{name}.{key}".strip("."), 0)

    def _add(self, value: Any, name: str, depth: int) -> None:
        if type(value) in _CONSTANTS or id(value) in self._seen or depth > _DEPTH:
            return
        if isinstance(value, _CONTAINERS):
            self.kept.append(_Kept(name, False, value, _copy(value)))
        elif isinstance(value, torch.Generator):
            self.kept.append(_Kept(name, False, value, value.get_state()))
        elif not isinstance(value, _OPAQUE) and isinstance(getattr(value, "__dict__", None), dict):
            value = vars(value)
            self.kept.append(_Kept(name, False, value, value.copy()))
        else:
            return
        self._seen.add(id(value))
        if isinstance(value, (dict, list, deque)):
            for item in value.values() if isinstance(value, dict) else value:
                if type(item) not in _CONSTANTS:
                    self._add(item, name, depth + 1)

    def restore(self, changes: Changes, written: dict[int, Content]) -> None:
        """Undo and name all changes; ``written`` has storages and their content before the run."""
        names: list[str] = []
        for item in self.kept:
            found = item.changed()
            if found:
                item.restore()
                names += found
        written = written | {key: pair for key, pair in self.copies.items() if bytes(pair[0]) != bytes(pair[1])}
        for name, (value, before) in self.tensors.items():
            moved = _layout(value) != _layout(before)
            if moved:
                value.data = before
            if moved or before.untyped_storage()._cdata in written:
                names.append(name)
        for storage, content in written.values():
            if storage.nbytes() != content.nbytes():
                storage.resize_(content.nbytes())
            storage.copy_(content)
        changes.tensors |= dict.fromkeys(name for name in sorted(names) if name in self.tensors)
        changes.attributes |= dict.fromkeys(name for name in sorted(names) if name not in self.tensors)
