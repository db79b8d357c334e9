"""What a tensor is before it has values: its name, its dtype, its shape with symbolic dimensions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.core.errors import InputSpecError

Dim = int | str
"""A size, or the name of a dimension whose size is known only when the model runs."""

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
"""The Open Inference Protocol's names of numpy's."""
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SIZE = re.compile(r"[1-9][0-9]{0,17}\Z")
_FORM = "name:dims:dtype, for example tokens:batch,sequence=16:int64:0..30522"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A named tensor: numpy dtype name and shape; a string in the shape is a symbolic dimension.

    Attributes:
        bounds: the range ``(low, high)`` that values may take; for integers ``high`` is left out.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    bounds: tuple[float, float] | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbolic dimensions, in order, each once."""
        return tuple(dict.fromkeys(dim for dim in self.shape if isinstance(dim, str)))

    def bind(self, sizes: Mapping[str, int]) -> TensorSpec:
        """This spec with every symbol named in ``sizes`` replaced by its size."""
        shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in self.shape)
        return TensorSpec(name=self.name, dtype=self.dtype, shape=shape, bounds=self.bounds)

    def concrete(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every symbol replaced.

        Raises:
            InputSpecError: a symbol has no size.
        """
        bound = self.bind(sizes)
        if bound.symbols:
            raise InputSpecError(f"input {self.name!r}: no size for dimension {bound.symbols[0]!r}.")
        return tuple(int(dim) for dim in bound.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"

    def plain(self) -> dict[str, Any]:
        """Plain values for a message; the inverse of `all_of`."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def all_of(cls, items: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
        """The specs that a message holds."""
        return tuple(cls(name=item["name"], dtype=item["dtype"], shape=tuple(item["shape"])) for item in items)


def symbols(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """The symbolic dimensions of several tensors, in order, each once."""
    return tuple(dict.fromkeys(symbol for spec in specs for symbol in spec.symbols))


def parse_input(text: str) -> tuple[TensorSpec, dict[str, int]]:
    """Read ``name:dims[:dtype[:low..high]]``, the form of the ``--input`` option.

    Dimensions are separated by commas. A number is fixed; a name is dynamic; ``name=16`` is dynamic
    and traced with size 16. ``batch`` needs no size.

    Returns:
        The spec, and the sizes given to its symbols.

    Raises:
        InputSpecError: the text has another form.
    """
    parts = text.split(":")
    if not 2 <= len(parts) <= 4 or not _SYMBOL.match(parts[0]):
        raise InputSpecError(f"--input {text!r} is not of the form {_FORM}.")
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
            raise InputSpecError(f"--input {text!r}: {dim!r} is not a size or a name.")
    return TensorSpec(name=name, dtype=dtype, shape=tuple(shape), bounds=_parse_bounds(text, bounds)), sizes


def _parse_bounds(text: str, bounds: str) -> tuple[float, float] | None:
    if not bounds:
        return None
    match = re.fullmatch(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})", bounds)
    if match is None or int(match[1]) >= int(match[2]):
        raise InputSpecError(f"--input {text!r}: {bounds!r} is not a range low..high.")
    return float(match[1]), float(match[2])


def batch_symbol(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """The dimension along which requests are put together: first in every input and output, and nowhere else.

    Returns:
        Its name, or None where there is none, so that every request has to run alone.
    """
    first = {spec.shape[0] if spec.shape else None for spec in (*inputs, *outputs)}
    name = first.pop()
    if first or not isinstance(name, str):
        return None
    return None if any(name in spec.shape[1:] for spec in (*inputs, *outputs)) else name
