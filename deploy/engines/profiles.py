"""From an artifact's symbolic dimensions and what the user typed to the shape ranges of an engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from deploy.core.errors import UsageError
from deploy.core.tensors import TensorSpec
from exporters.onnx_to_tensorrt import Profile, ShapeRange

BATCH = "1:8:32"
_TRIPLE = re.compile(r"(\d+):(\d+):(\d+)\Z")
_FORM = "three sizes MIN:OPT:MAX are wanted, each at least the one before"

Sizes = tuple[int, int, int]
Range = TypeVar("Range")


def profiles_of(inputs: Sequence[TensorSpec], batch: str | None, shapes: Sequence[str]) -> tuple[Profile, ...]:
    """The optimization profiles of a graph; none where every dimension is fixed.

    A range is written once, for every profile, or once for each profile, separated by commas:
    ``--batch 1:1:1,8:16:32`` makes two.

    Args:
        inputs: of the graph.
        batch: ``MIN:OPT:MAX`` for the dimension ``batch``; None for `BATCH`.
        shapes: ``DIMENSION:MIN:OPT:MAX`` for another symbolic dimension, or ``INPUT:1x3x64x64:…:…`` for an input's
            whole shape, repeated.

    Raises:
        UsageError: not of that form, MIN > OPT > MAX, an unknown name, a dimension without a range or with two, or
            ranges that are neither one nor as many as the profiles.
    """
    symbols = {dim for spec in inputs for dim in spec.symbols}
    ranges: dict[str, tuple[Sizes, ...]] = {}
    whole: dict[str, tuple[ShapeRange, ...]] = {}
    if "batch" in symbols:
        ranges["batch"] = _each("--batch", batch or BATCH, _triple)
    elif batch is not None:
        raise UsageError(f"--batch {batch}: the graph has no dynamic batch.", "deploy export MODEL --dynamic batch")
    for text in shapes:
        name, _, rest = text.partition(":")
        if name in whole or (name in ranges and (name != "batch" or batch is not None)):
            raise UsageError(f"--shape {text}: {name} has a range already; several profiles are separated by commas.")
        if name in symbols:
            ranges[name] = _each(f"--shape {name}", rest, _triple)
        elif name in {spec.name for spec in inputs}:
            whole[name] = _each(f"--shape {name}", rest, _shapes)
        else:
            known = ", ".join(sorted(symbols | {spec.name for spec in inputs}))
            raise UsageError(
                f"--shape {text}: {name!r} is neither a dynamic dimension nor an input; there are: {known}."
            )
    return tuple(
        {
            spec.name: _nth(whole[spec.name], index) if spec.name in whole else _range(spec, ranges, index)
            for spec in inputs
            if spec.symbols
        }
        for index in range(_count(ranges, whole) if symbols else 0)
    )


def _each(option: str, text: str, read: Callable[[str, str], Range]) -> tuple[Range, ...]:
    return tuple(read(option, part) for part in text.split(","))


def _count(ranges: dict[str, tuple[Sizes, ...]], whole: dict[str, tuple[ShapeRange, ...]]) -> int:
    """How many profiles there are."""
    counts = {name: len(given) for name, given in [*ranges.items(), *whole.items()]}
    several = {name: count for name, count in counts.items() if count > 1}
    if len(set(several.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in several.items())
        raise UsageError(f"each dimension has one range, or one for each profile; there are: {told}.")
    return max(several.values(), default=1)


def _nth(given: tuple[Range, ...], index: int) -> Range:
    return given[index if len(given) > 1 else 0]


def _triple(option: str, text: str) -> Sizes:
    match = _TRIPLE.match(text)
    sizes = [int(part) for part in match.groups()] if match else []
    if not sizes or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise UsageError(f"{option} {text}: {_FORM}.")
    return sizes[0], sizes[1], sizes[2]


def _shapes(option: str, text: str) -> ShapeRange:
    try:
        shapes = [tuple(int(size) for size in part.split("x")) for part in text.split(":")]
    except ValueError as exc:
        raise UsageError(f"{option} {text}: shapes are written 1x3x224x224.") from exc
    ordered = len(shapes) == 3 and len({len(shape) for shape in shapes}) == 1
    if not ordered or any(not 1 <= low <= opt <= high for low, opt, high in zip(*shapes, strict=True)):
        raise UsageError(f"{option} {text}: {_FORM.replace('sizes', 'shapes')}.")
    return ShapeRange(min=shapes[0], opt=shapes[1], max=shapes[2])


def _range(spec: TensorSpec, ranges: dict[str, tuple[Sizes, ...]], index: int) -> ShapeRange:
    missing = [dim for dim in spec.symbols if dim not in ranges]
    if missing:
        raise UsageError(
            f"input {spec}: dimension {missing[0]!r} needs a range.",
            f"deploy trt build --shape {missing[0]}:MIN:OPT:MAX",
        )
    at = {name: _nth(given, index) for name, given in ranges.items()}
    low, opt, high = (spec.concrete({name: sizes[end] for name, sizes in at.items()}) for end in range(3))
    return ShapeRange(min=low, opt=opt, max=high)
