"""Optimization profiles of an engine, from a graph's symbolic dimensions and the user's ranges."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from deploy.core.errors import UsageError
from deploy.core.tensors import TensorSpec, batch_dimension
from exporters.onnx_to_tensorrt import Profile, ShapeRange

DEFAULT_BATCH = "1:8:32"
_SIZES = re.compile(r"(\d+):(\d+):(\d+)\Z")
_ORDER = "with 1 <= MIN <= OPT <= MAX"

Sizes = tuple[int, int, int]
"""Min, opt and max of one dimension."""
Range = TypeVar("Range")


def profiles_of(inputs: Sequence[TensorSpec], batch: str | None, shapes: Sequence[str]) -> tuple[Profile, ...]:
    """Return the optimization profiles of a graph; none if every dimension is fixed.

    Each option has one range, which holds for every profile, or one range for each profile, separated by commas:
    ``--batch 1:1:1,8:16:32`` makes two profiles.

    Args:
        inputs: inputs of the graph.
        batch: ``MIN:OPT:MAX`` for the batch, or ``N`` for ``1:N:N``, see
            `deploy.core.tensors.batch_dimension`; None for `DEFAULT_BATCH`.
        shapes: ``DIMENSION:MIN:OPT:MAX`` for another symbolic dimension, or ``INPUT:1x3x64x64:…:…`` for the whole
            shape of an input.

    Raises:
        UsageError: a range is malformed, an unknown name, a dimension has no range or two, or the numbers of ranges
            differ.
    """
    symbols = {dim for spec in inputs for dim in spec.symbols}
    ranges: dict[str, tuple[Sizes, ...]] = {}
    whole: dict[str, tuple[ShapeRange, ...]] = {}
    batched = batch_dimension(inputs)
    if batched is not None:
        ranges[batched] = _parse_each("--batch", batch or DEFAULT_BATCH, _parse_sizes)
    elif batch is not None:
        raise UsageError(f"--batch {batch}: the graph has no dynamic batch.", "deploy export MODEL --dynamic batch")
    longest_first = sorted({*symbols, *(spec.name for spec in inputs)}, key=len, reverse=True)  # names may have colons
    for text in shapes:
        name = next((name for name in longest_first if text.startswith(f"{name}:")), text.partition(":")[0])
        rest = text[len(name) + 1 :]
        if name in whole or (name in ranges and (name != batched or batch is not None)):
            raise UsageError(
                f"--shape {text}: {name} already has a range.", "separate the ranges of several profiles by commas"
            )
        if name in symbols:
            ranges[name] = _parse_each(f"--shape {name}", rest, _parse_sizes)
        elif name in {spec.name for spec in inputs}:
            whole[name] = _parse_each(f"--shape {name}", rest, _parse_shapes)
        else:
            known = ", ".join(sorted(symbols | {spec.name for spec in inputs}))
            raise UsageError(f"--shape {text}: {name!r} is not a dynamic dimension or an input; known: {known}.")
    return tuple(
        {
            spec.name: _nth(whole[spec.name], index) if spec.name in whole else _range(spec, ranges, index)
            for spec in inputs
            if spec.symbols
        }
        for index in range(_count(ranges, whole) if symbols else 0)
    )


def _parse_each(option: str, text: str, parse: Callable[[str, str], Range]) -> tuple[Range, ...]:
    return tuple(parse(option, part) for part in text.split(","))


def _parse_sizes(option: str, text: str) -> Sizes:
    if option == "--batch" and text.isdecimal():
        text = f"1:{text}:{text}"
    match = _SIZES.match(text)
    sizes = [int(part) for part in match.groups()] if match else []
    if not sizes or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise UsageError(f"{option} {text}: not three sizes MIN:OPT:MAX {_ORDER}.")
    return sizes[0], sizes[1], sizes[2]


def _parse_shapes(option: str, text: str) -> ShapeRange:
    try:
        shapes = [tuple(int(size) for size in part.split("x")) for part in text.split(":")]
    except ValueError as exc:
        raise UsageError(f"{option} {text}: not shapes such as 1x3x224x224.") from exc
    same_rank = len(shapes) == 3 and len({len(shape) for shape in shapes}) == 1
    if not same_rank or any(not 1 <= low <= opt <= high for low, opt, high in zip(*shapes, strict=True)):
        raise UsageError(f"{option} {text}: not three shapes MIN:OPT:MAX {_ORDER} in every dimension.")
    return ShapeRange(min=shapes[0], opt=shapes[1], max=shapes[2])


def _count(ranges: dict[str, tuple[Sizes, ...]], whole: dict[str, tuple[ShapeRange, ...]]) -> int:
    counts = {name: len(given) for name, given in [*ranges.items(), *whole.items()]}
    several = {name: count for name, count in counts.items() if count > 1}
    if len(set(several.values())) > 1:
        numbers = ", ".join(f"{name} {count}" for name, count in several.items())
        raise UsageError(f"--batch, --shape: each needs one range, or one for each profile; given: {numbers}.")
    return max(several.values(), default=1)


def _nth(given: tuple[Range, ...], index: int) -> Range:
    return given[index if len(given) > 1 else 0]


def _range(spec: TensorSpec, ranges: dict[str, tuple[Sizes, ...]], index: int) -> ShapeRange:
    missing = [dim for dim in spec.symbols if dim not in ranges]
    if missing:
        raise UsageError(
            f"input {spec}: dimension {missing[0]!r} needs a range.",
            f"deploy trt build --shape {missing[0]}:MIN:OPT:MAX",
        )
    sizes = {name: _nth(given, index) for name, given in ranges.items()}
    low, opt, high = (spec.concrete({name: three[end] for name, three in sizes.items()}) for end in range(3))
    return ShapeRange(min=low, opt=opt, max=high)
