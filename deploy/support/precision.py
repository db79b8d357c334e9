"""Run a PyTorch module in another floating-point precision without a copy of its weights.

The float operands of each operator are converted when it is called, so that at most one operator's weights exist twice.
The result is bitwise equal to that of ``module.to(dtype)`` under ``torch.set_default_dtype(dtype)``. Modules that
create float32 constants work too, although ``module.double()`` fails on them. On CPUs without kernels for products in
half precision, those are added in another order, see `deploy.support.half_products`.

A converted copy that is written to stands for its tensor until the end of the run: what is written into a buffer or a
slice of it is read back in the precision of the run. While a copy or a view of it is in use, its tensor is not
converted again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from deploy.support.dispatch import DispatchMode
from deploy.support.half_products import product_of
from deploy.support.state import has_storage, reentering, unchanged, written

Observer = Callable[[str, tuple[Any, ...], Any], None]
"""Called with the name of an operator, its operands as converted (all of its signature, in order), and its result."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPLEX = {
    **dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.complex64),
    torch.float64: torch.complex128,
}
_COMPLEX_DTYPES = (torch.complex32, torch.complex64, torch.complex128)
_DTYPE_ASSERTIONS = ("_assert_tensor_metadata",)
_ESCAPES = ("numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage")
"""Functions after which a tensor can be written to without an operator."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A storage in the precision of the run; the references to both storages are weak."""

    source: StorageWeakRef
    dtype: torch.dtype
    storage: StorageWeakRef


class _Converter:
    """Converts operands to ``dtype`` and records which of the watched tensors were read."""

    def __init__(self, dtype: torch.dtype, watched: Mapping[int, str]) -> None:
        self.dtype = dtype
        self.dtypes = {**dict.fromkeys(_FLOATS, dtype), **dict.fromkeys(_COMPLEX_DTYPES, _COMPLEX[dtype])}
        self.watched = watched
        self.read: set[str] = set()
        self._copies: dict[int, _Copy] = {}
        self._sources: dict[int, int] = {}
        self._kept: dict[int, Any] = {}
        self._replaced: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            name = self.watched.get(id(value))
            if name is not None:
                self.read.add(name)
            return self.tensor(value)
        if isinstance(value, torch.dtype):
            return self.dtypes.get(value, value)
        if type(value) in (list, tuple):
            return type(value)(map(self, value))
        return value

    def current(self, value: torch.Tensor) -> torch.Tensor:
        """Return the tensor that stands for ``value`` after a call changed its shape or data, else ``value``."""
        return self._replaced[id(value)][1] if id(value) in self._replaced else value

    def tensor(self, value: torch.Tensor) -> torch.Tensor:
        """Return the tensor in the precision of the run: itself, its copy that is in use, or a new copy."""
        value = self.current(value)
        dtype = self.dtypes.get(value.dtype)
        if dtype is None or dtype is value.dtype:
            return value
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            if not has_storage(value) or value.is_conj() or value.is_neg():
                return value.to(dtype)
            source = value.untyped_storage()
            copied = self._copies.get(source._cdata)
            if copied is not None and copied.dtype is value.dtype:
                storage = torch.UntypedStorage._new_with_weak_ptr(copied.storage.cdata)
                if storage is not None and not (value.requires_grad and torch.is_grad_enabled()):
                    return _view(storage, dtype, value)
            dense = value.numel() * value.element_size() == source.nbytes()
            if dense or isinstance(value, torch.nn.Parameter):
                result = value.to(dtype)
                if dense and has_storage(result) and result.stride() == value.stride():
                    self._add(source, value.dtype, result.untyped_storage())
                return result
            count = source.nbytes() // value.element_size()
            whole = _flat(source, value.dtype, count).to(dtype)
            self._add(source, value.dtype, whole.untyped_storage())
            return _view(whole.untyped_storage(), dtype, value)

    def _add(self, source: torch.UntypedStorage, dtype: torch.dtype, storage: torch.UntypedStorage) -> None:
        before = self._copies.get(source._cdata)
        if before is not None:
            self._sources.pop(before.storage.cdata, None)
        self._copies[source._cdata] = _Copy(_weak(source), dtype, _weak(storage))
        self._sources[storage._cdata] = source._cdata

    def keep(self, value: Any) -> None:
        """Keep the copy that ``value`` is a part of, since it is about to be written to."""
        if self._sources and has_storage(value):
            storage = value.untyped_storage()
            source = self._sources.get(storage._cdata)
            if source is not None and source not in self._kept:
                original = torch.UntypedStorage._new_with_weak_ptr(self._copies[source].source.cdata)
                self._kept[source] = (original, storage)

    def replace(self, tensor: torch.Tensor, converted: torch.Tensor) -> None:
        """Let ``converted`` stand for ``tensor`` from now on, also in shape."""
        self._replaced[id(tensor)] = (tensor, converted)

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return function(*map(self, args), **{key: self(item) for key, item in (kwargs or {}).items()})


def _weak(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _flat(storage: torch.UntypedStorage, dtype: torch.dtype, count: int) -> torch.Tensor:
    return torch.empty(0, dtype=dtype).set_(storage, 0, (count,), (1,))


def _view(storage: torch.UntypedStorage, dtype: torch.dtype, like: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=dtype).set_(storage, like.storage_offset(), like.shape, like.stride())


class _Python(TorchFunctionMode):
    """Converts the operands of calls from Python, before an operator compares their dtypes."""

    def __init__(self, convert: _Converter) -> None:
        super().__init__()
        self.convert = convert

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "__get__":  # .shape, .dtype, .device: no values are read
            result = func(self.convert.current(args[0]), *args[1:], **kwargs)
            return self.convert(result) if isinstance(result, torch.dtype) else result
        if name == "__set__":
            return self._set(func, *args)
        if isinstance(func, HigherOrderOperator):
            args, kwargs = reentering(self, args), {key: reentering(self, item) for key, item in kwargs.items()}
        if name == "float":  # returns the same tensor, not a copy, where the precision is float32
            func, kwargs = torch.Tensor.to, {"dtype": torch.float32, **kwargs}
        converted = tuple(map(self.convert, args))
        named = {key: self.convert(item) for key, item in kwargs.items()}
        if name in _ESCAPES:
            self.convert.keep(converted[0])
        result = func(*converted, **named)
        if name[-1:] == "_" != name[-2:-1]:
            self._reshape(args[0], converted[0], always=name == "requires_grad_")
        elif "out" in kwargs:
            self._reshape(kwargs["out"], named["out"])
        return result

    def _set(self, func: Any, tensor: torch.Tensor, value: Any) -> None:
        if func.__self__ is not torch.Tensor.data:
            func(self.convert.current(tensor), value)
        elif self.convert.dtypes.get(tensor.dtype, tensor.dtype) is tensor.dtype:
            func(tensor, self.convert(value))
        else:
            self.convert.replace(tensor, self.convert(value).detach())

    def _reshape(self, given: Any, converted: Any, always: bool = False) -> None:
        """Keep the shape that a call gave to the copy of a tensor."""
        if isinstance(given, torch.Tensor) and given is not converted:
            with torch._C.DisableTorchFunction():
                if always or (given.shape, given.stride()) != (converted.shape, converted.stride()):
                    self.convert.replace(given, converted)


class _Aten(DispatchMode):
    """Converts the operands of calls between operators, including constants created inside them."""

    supports_higher_order_operators = True

    def __init__(self, convert: _Converter, observe: Observer | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convert = convert
        self.observe = observe

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tuple(map(self.convert, args)), {key: self.convert(item) for key, item in (kwargs or {}).items()}
        if isinstance(func, HigherOrderOperator):
            return func(*reentering(self, args), **{key: reentering(self, item) for key, item in kwargs.items()})
        name = func.overloadpacket.__name__
        if name in _DTYPE_ASSERTIONS:
            return None
        for value in written(func, args, kwargs):
            self.convert.keep(value)
        product = product_of(name, self.convert.dtype)
        result = func(*args, **kwargs) if product is None else product(func, *args, **kwargs)
        if self.observe is not None:
            rest = func._schema.arguments[len(args) :]
            self.observe(name, (*args, *(kwargs.get(item.name, item.default_value) for item in rest)), result)
        return result


@contextmanager
def computed_in(
    dtype: torch.dtype, module: torch.nn.Module | None = None, observe: Observer | None = None
) -> Iterator[set[str]]:
    """Compute every floating-point operation within this context in ``dtype``.

    Args:
        dtype: float64, float32, float16 or bfloat16; parameters keep their dtype and are converted when they are read.
            It is also the default dtype within the context.
        module: module whose parameters and buffers are recorded when they are read; at the end its state is restored,
            see `deploy.support.state.unchanged`. None records nothing.
        observe: called after each operator, see `Observer`.

    Yields:
        Names of the parameters and buffers read so far, as in ``state_dict``.
    """
    watched: dict[int, str] = {}
    if module is not None:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            watched[id(tensor)] = name
    convert = _Converter(dtype, watched)
    with unchanged(module), torch.no_grad(), _default(dtype), _Python(convert), _Aten(convert, observe):
        yield convert.read


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
