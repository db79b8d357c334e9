"""Run a PyTorch module in another floating-point precision without a copy of its weights.

Every operator's float operands are converted as it is called, so at most one operator's weights exist twice.
The result equals, to the last bit, what ``module.to(dtype)`` gives; it also works for modules that create
float32 constants of their own, on which ``module.double()`` fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Observer = Callable[[str, torch.Tensor], None]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPE_ASSERTIONS = ("_assert_tensor_metadata",)


class _Converter:
    """Converts operands to ``dtype`` and remembers which of the watched tensors were read."""

    def __init__(self, dtype: torch.dtype, watched: Mapping[int, str]) -> None:
        self.dtype = dtype
        self.watched = watched
        self.read: set[str] = set()

    def __call__(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            name = self.watched.get(id(value))
            if name is not None:
                self.read.add(name)
            return value.to(self.dtype) if value.dtype in _FLOATS and value.dtype != self.dtype else value
        if isinstance(value, torch.dtype):
            return self.dtype if value in _FLOATS else value
        if type(value) in (list, tuple):
            return type(value)(map(self, value))
        return value

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return function(*map(self, args), **{key: self(item) for key, item in (kwargs or {}).items()})


class _Python(TorchFunctionMode):
    """What Python code calls: converts before an operator compares the dtypes of its operands."""

    def __init__(self, convert: _Converter) -> None:
        super().__init__()
        self.convert = convert

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "__get__":  # .shape, .dtype, .device …: no values are read
            result = func(*args, **(kwargs or {}))
            return self.convert.dtype if isinstance(result, torch.dtype) and result in _FLOATS else result
        return self.convert.call(func, args, kwargs)


class _Aten(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What operators call in turn: catches constants made inside them."""

    def __init__(self, convert: _Converter, observe: Observer | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convert = convert
        self.observe = observe

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _DTYPE_ASSERTIONS:
            return None
        result = self.convert.call(func, args, kwargs)
        if self.observe is not None:
            for item in result if isinstance(result, (list, tuple)) else [result]:
                if isinstance(item, torch.Tensor) and item.is_floating_point():
                    self.observe(name, item)
        return result


@contextmanager
def computed_in(
    dtype: torch.dtype, module: torch.nn.Module | None = None, observe: Observer | None = None
) -> Iterator[set[str]]:
    """Within this context every floating-point operation is computed in ``dtype``.

    Args:
        dtype: float64, float32 or float16; parameters keep their own dtype and are converted as they are read.
        module: where given, the names of its parameters and buffers that are read are collected, and tensors that it
            caches in plain attributes are dropped at the end.

        observe: called with the name and each float result of every operator, in order.

    Yields:
        The names read so far, as in ``state_dict``.
    """
    watched: dict[int, str] = {}
    if module is not None:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            watched[id(tensor)] = name
    convert = _Converter(dtype, watched)
    with _unchanged(module), torch.no_grad(), _Python(convert), _Aten(convert, observe):
        yield convert.read


@contextmanager
def _unchanged(module: torch.nn.Module | None) -> Iterator[None]:
    """Undo what a run leaves in plain attributes: a table cached in this precision would spoil runs in another."""
    before = []
    for part in module.modules() if module is not None else ():
        held = {name: value for name, value in vars(part).items() if not name.startswith("_")}
        before.append((part, held, {name: copy(held[name]) for name in held if type(held[name]) in (dict, list)}))
    try:
        yield
    finally:
        for part, held, containers in before:
            for name in [name for name in vars(part) if not name.startswith("_") and name not in held]:
                delattr(part, name)
            vars(part).update(held)
            for name, content in containers.items():
                held[name].clear()
                (held[name].update if isinstance(content, dict) else held[name].extend)(content)
