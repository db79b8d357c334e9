"""Specifications of tensors: name, dtype, and shape with symbolic dimensions."""

from __future__ import annotations

import dataclasses
import math
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
_OPEN = re.compile(
    r"(?P<dim>[A-Za-z_][A-Za-z0-9_]*)"
    r"(=(?P<size>[1-9][0-9]{0,17})(%(?P<multiple>[1-9][0-9]{0,8}))?(\.\.(?P<max>[1-9][0-9]{0,17}))?)?\Z"
)
_FORM = "name:dims:dtype, for example tokens:batch,sequence=16:int64:0..30522"


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeRange:
    """Sizes that a dynamic dimension may have: multiples of ``multiple`` from ``min`` to ``max``, if that is given."""

    dim: str
    min: int = 1
    max: int | None = None
    multiple: int = 1

    def allows(self, size: int) -> bool:
        """Return whether a size is in the range."""
        return size >= self.min and (self.max is None or size <= self.max) and size % self.multiple == 0

    def intersect(self, other: SizeRange) -> SizeRange:
        """Return the sizes that both ranges allow, for the dimension of this one."""
        limits = [limit for limit in (self.max, other.max) if limit is not None]
        return SizeRange(
            dim=self.dim,
            min=max(self.min, other.min),
            max=min(limits, default=None),
            multiple=math.lcm(self.multiple, other.multiple),
        )

    @property
    def limited(self) -> bool:
        """Whether any size is excluded."""
        return self.min > 1 or self.max is not None or self.multiple > 1

    def __str__(self) -> str:
        parts = [f"multiples of {self.multiple}"] if self.multiple > 1 else []
        if self.max is not None:
            parts.append(f"{self.min} to {self.max}")
        elif self.min > 1 or not parts:
            parts.append(f"at least {self.min}")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A named tensor.

    Attributes:
        dtype: name of the numpy dtype.
        shape: sizes; a string is a symbolic dimension.
        bounds: range ``(low, high)`` of values; for integers ``high`` is exclusive.
        ranges: allowed sizes of symbolic dimensions; one without a range may have any size.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    bounds: tuple[float, float] | None = None
    ranges: tuple[SizeRange, ...] = ()

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbolic dimensions, in order, without duplicates."""
        return tuple(dict.fromkeys(dim for dim in self.shape if isinstance(dim, str)))

    def bind(self, sizes: Mapping[str, int]) -> TensorSpec:
        """Return a copy with every symbol in ``sizes`` replaced by its size."""
        shape = tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in self.shape)
        return dataclasses.replace(self, shape=shape)

    def concrete(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with every symbol replaced by its size.

        Raises:
            InputSpecError: a symbol has no size, or one that its range excludes.
        """
        bound = self.bind(sizes)
        if bound.symbols:
            raise InputSpecError(f"input {self.name!r}: no size for dimension {bound.symbols[0]!r}.")
        shape = tuple(int(dim) for dim in bound.shape)
        refused = self.refused(shape)
        if refused:
            raise InputSpecError(f"input {self.name!r}: {refused}.")
        return shape

    def refused(self, shape: Sequence[int]) -> str:
        """Return which size of a shape of the right rank is outside its range, and the range; empty if none is."""
        for dim, size in zip(self.shape, shape, strict=True):
            for allowed in self.ranges:
                if allowed.dim == dim and not allowed.allows(size):
                    return f"dimension {dim!r} is {size}; allowed: {allowed}"
        return ""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


def symbols(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the symbolic dimensions of several tensors, in order, without duplicates."""
    return tuple(dict.fromkeys(symbol for spec in specs for symbol in spec.symbols))


def with_ranges(specs: Sequence[TensorSpec], more: Sequence[SizeRange] = ()) -> tuple[TensorSpec, ...]:
    """Return the tensors with the ranges that any of them or ``more`` gives a dimension; these are intersected."""
    merged: dict[str, SizeRange] = {}
    for item in [*(item for spec in specs for item in spec.ranges), *more]:
        merged[item.dim] = merged[item.dim].intersect(item) if item.dim in merged else item
    return tuple(
        dataclasses.replace(
            spec, ranges=tuple(merged[dim] for dim in spec.symbols if dim in merged and merged[dim].limited)
        )
        for spec in specs
    )


def size_ranges(specs: Sequence[TensorSpec]) -> dict[str, SizeRange]:
    """Return the range of every symbolic dimension of several tensors; one that is not limited allows any size."""
    given = {item.dim: item for spec in with_ranges(specs) for item in spec.ranges}
    return {symbol: given.get(symbol, SizeRange(dim=symbol)) for symbol in symbols(specs)}


def parse_input(text: str) -> tuple[TensorSpec, dict[str, int]]:
    """Parse ``name:dims[:dtype[:low..high]]``, the argument of the option ``--input``.

    Dimensions are separated by commas. A number is a fixed size; a name is a dynamic dimension; ``name=16`` is a
    dynamic dimension that is traced with size 16. ``batch`` needs no size. ``name=16..24`` allows at most 24,
    ``name=64%32`` multiples of 32, and ``name=64%32..640`` both.

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
    ranges: list[SizeRange] = []
    for dim in filter(None, (piece.strip() for piece in dims.split(","))):
        if _SIZE.match(dim):
            shape.append(int(dim))
            continue
        match = _OPEN.match(dim)
        if match is None:
            raise InputSpecError(f"--input {text!r}: {dim!r} is neither a size nor a name.")
        symbol, size = match["dim"], match["size"]
        shape.append(symbol)
        if size is None and symbol != "batch":
            raise InputSpecError(f"--input {text!r}: dimension {symbol!r} needs a size to trace with: {symbol}=16.")
        if size is not None:
            sizes[symbol] = int(size)
            ranges += _parse_range(text, match)
    (spec,) = with_ranges(
        [TensorSpec(name=name, dtype=dtype, shape=tuple(shape), bounds=_parse_bounds(text, bounds))], ranges
    )
    return spec, sizes


def _parse_range(text: str, match: re.Match[str]) -> list[SizeRange]:
    multiple, limit = int(match["multiple"] or 1), match["max"]
    allowed = SizeRange(dim=match["dim"], min=multiple, max=None if limit is None else int(limit), multiple=multiple)
    if not allowed.allows(int(match["size"])):
        raise InputSpecError(f"--input {text!r}: {match[0]!r} excludes its own size {match['size']}.")
    return [allowed] if allowed.limited else []


def _parse_bounds(text: str, bounds: str) -> tuple[float, float] | None:
    if not bounds:
        return None
    match = re.fullmatch(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})", bounds)
    if match is None or int(match[1]) >= int(match[2]):
        raise InputSpecError(f"--input {text!r}: {bounds!r} is not a range low..high.")
    return float(match[1]), float(match[2])


def batch_dimension(inputs: Sequence[TensorSpec]) -> str | None:
    """Return the symbol that ``--batch`` sets: ``batch``, else the first dimension of the first input.

    None if that one is fixed. Files of other exporters call the batch ``N``, ``unk__617``, or nothing.
    """
    if "batch" in symbols(inputs):
        return "batch"
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return first if isinstance(first, str) else None


def batch_symbol(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """Return the symbol that is the first dimension of every input and output, and no other; None if there is none."""
    first = {spec.shape[0] if spec.shape else None for spec in (*inputs, *outputs)}
    name = first.pop()
    if first or not isinstance(name, str):
        return None
    return None if any(name in spec.shape[1:] for spec in (*inputs, *outputs)) else name
