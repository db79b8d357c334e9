"""Run a PyTorch module in another floating-point precision without a copy of its weights.

The float operands of each operator are converted when it is called, so that at most one operator's weights exist twice.
The result is bitwise equal to that of ``module.to(dtype)``. Modules that create float32 constants work too, although
``module.double()`` fails on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Observer = Callable[[str, tuple[Any, ...], Any], None]
"""Called with the name of an operator, its operands as converted, and its result."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPE_ASSERTIONS = ("_assert_tensor_metadata",)


class _Converter:
    """Converts operands to ``dtype`` and records which of the watched tensors were read."""

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
    """Converts the operands of calls from Python, before an operator compares their dtypes."""

    def __init__(self, convert: _Converter) -> None:
        super().__init__()
        self.convert = convert

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "__get__":  # .shape, .dtype, .device: no values are read
            result = func(*args, **(kwargs or {}))
            return self.convert.dtype if isinstance(result, torch.dtype) and result in _FLOATS else result
        return self.convert.call(func, args, kwargs)


class _Aten(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Converts the operands of calls between operators, including constants created inside them."""

    def __init__(self, convert: _Converter, observe: Observer | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convert = convert
        self.observe = observe

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _DTYPE_ASSERTIONS:
            return None
        args, kwargs = tuple(map(self.convert, args)), {key: self.convert(item) for key, item in (kwargs or {}).items()}
        result = func(*args, **kwargs)
        if self.observe is not None:
            self.observe(name, (*args, *kwargs.values()), result)
        return result


@contextmanager
def computed_in(
    dtype: torch.dtype, module: torch.nn.Module | None = None, observe: Observer | None = None
) -> Iterator[set[str]]:
    """Compute every floating-point operation within this context in ``dtype``.

    Args:
        dtype: float64, float32 or float16; parameters keep their dtype and are converted when they are read.
        module: module whose parameters and buffers are recorded when they are read; at the end, tensors that it
            cached in plain attributes are removed. None records nothing.
        observe: called after each operator, see `Observer`.

    Yields:
        Names of the parameters and buffers read so far, as in ``state_dict``.
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
    """Restore plain attributes at the end: a table cached in this precision must not be used in another."""
    before = []
    for part in module.modules() if module is not None else ():
        attributes = {name: value for name, value in vars(part).items() if not name.startswith("_")}
        containers = {name: copy(value) for name, value in attributes.items() if type(value) in (dict, list)}
        before.append((part, attributes, containers))
    try:
        yield
    finally:
        for part, attributes, containers in before:
            for name in [name for name in vars(part) if not name.startswith("_") and name not in attributes]:
                delattr(part, name)
            vars(part).update(attributes)
            for name, content in containers.items():
                attributes[name].clear()
                (attributes[name].update if isinstance(content, dict) else attributes[name].extend)(content)
