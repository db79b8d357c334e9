"""Specifications of tensors: name, dtype, and shape with symbolic dimensions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.core.errors import InputSpecError

Dim = int | str
"""A size, or the name of a dynamic dimension."""

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""Names of the Open Inference Protocol by numpy dtype."""
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SIZE = re.compile(r"[1-9][0-9]{0,17}\Z")
_FORM = "name:dims:dtype, for example tokens:batch,sequence=16:int64:0..30522"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A named tensor.

    Attributes:
        dtype: name of the numpy dtype.
        shape: sizes; a string is a symbolic dimension.
        bounds: range ``(low, high)`` of values; for integers ``high`` is exclusive.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    bounds: tuple[float, float] | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbolic dimensions, in order, without duplicates."""
        return tuple(dict.fromkeys(dim for dim in self.shape if isinstance(dim, str)))

    def bind(self, sizes: Mapping[str, int]) -> TensorSpec:
        """Return a copy with every symbol in ``sizes`` replaced by its size."""
        shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in self.shape)
        return TensorSpec(name=self.name, dtype=self.dtype, shape=shape, bounds=self.bounds)

    def concrete(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with every symbol replaced by its size.

        Raises:
            InputSpecError: a symbol has no size.
        """
        bound = self.bind(sizes)
        if bound.symbols:
            raise InputSpecError(f"input {self.name!r}: no size for dimension {bound.symbols[0]!r}.")
        return tuple(int(dim) for dim in bound.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


def symbols(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the symbolic dimensions of several tensors, in order, without duplicates."""
    return tuple(dict.fromkeys(symbol for spec in specs for symbol in spec.symbols))


def parse_input(text: str) -> tuple[TensorSpec, dict[str, int]]:
    """Parse ``name:dims[:dtype[:low..high]]``, the argument of the option ``--input``.

    Dimensions are separated by commas. A number is a fixed size; a name is a dynamic dimension; ``name=16`` is a
    dynamic dimension that is traced with size 16. ``batch`` needs no size.

    Returns:
        The specification, and the sizes of its symbols.

    Raises:
        InputSpecError: the text has another form.
    """
    parts = text.split(":")
    if not 2 <= len(parts) <= 4 or not _SYMBOL.match(parts[0]):
        raise InputSpecError(f"--input {text!r}: expected {_FORM}.")
    name, dims, dtype, bounds = parts[0], parts[1], *(parts[2:] + [""] * (4 - len(parts)))
    dtype = dtype or "float32"
    if dtype not in DTYPES:
        raise InputSpecError(f"--input {text!r}: dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    shape: list[Dim] = []
    sizes: dict[str, int] = {}
    for dim in filter(None, (piece.strip() for piece in dims.split(","))):
        symbol, _, size = dim.partition("=")
        if _SIZE.match(dim):
            shape.append(int(dim))
        elif _SYMBOL.match(symbol) and (not size or _SIZE.match(size)):
            shape.append(symbol)
            if size:
                sizes[symbol] = int(size)
            elif symbol != "batch":
                raise InputSpecError(f"--input {text!r}: dimension {symbol!r} needs a size to trace with: {symbol}=16.")
        else:
            raise InputSpecError(f"--input {text!r}: {dim!r} is neither a size nor a name.")
    return TensorSpec(name=name, dtype=dtype, shape=tuple(shape), bounds=_parse_bounds(text, bounds)), sizes


def _parse_bounds(text: str, bounds: str) -> tuple[float, float] | None:
    if not bounds:
        return None
    match = re.fullmatch(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})", bounds)
    if match is None or int(match[1]) >= int(match[2]):
        raise InputSpecError(f"--input {text!r}: {bounds!r} is not a range low..high.")
    return float(match[1]), float(match[2])


def batch_symbol(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """Return the symbol that is the first dimension of every input and output, and no other; None if there is none."""
    first = {spec.shape[0] if spec.shape else None for spec in (*inputs, *outputs)}
    name = first.pop()
    if first or not isinstance(name, str):
        return None
    return None if any(name in spec.shape[1:] for spec in (*inputs, *outputs)) else name
