"""From an artifact's symbolic dimensions and what the user typed to the shape ranges of an engine."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deploy.core.errors import UsageError
from deploy.core.tensors import TensorSpec
from exporters.onnx_to_tensorrt import Profile, ShapeRange

BATCH = "1:8:32"
_TRIPLE = re.compile(r"(\d+):(\d+):(\d+)\Z")


def profile_of(inputs: Sequence[TensorSpec], batch: str | None, shapes: Sequence[str]) -> Profile:
    """The ranges of every input that has a symbolic dimension.

    Args:
        inputs: of the graph.
        batch: ``MIN:OPT:MAX`` for the dimension ``batch``; None for `BATCH`.
        shapes: ``DIMENSION:MIN:OPT:MAX`` for another symbolic dimension, or ``INPUT:1x3x64x64:…:…`` for an input's
            whole shape, repeated.

    Raises:
        UsageError: not of that form, MIN > OPT > MAX, an unknown name, or a dimension without a range.
    """
    symbols = {dim for spec in inputs for dim in spec.symbols}
    ranges: dict[str, tuple[int, int, int]] = {}
    whole: dict[str, ShapeRange] = {}
    if "batch" in symbols:
        ranges["batch"] = _triple("--batch", batch or BATCH)
    elif batch is not None:
        raise UsageError(f"--batch {batch}: the graph has no dynamic batch.", "deploy export MODEL --dynamic batch")
    for text in shapes:
        name, _, rest = text.partition(":")
        if name in symbols:
            ranges[name] = _triple(f"--shape {name}", rest)
        elif name in {spec.name for spec in inputs}:
            whole[name] = _shapes(text, rest)
        else:
            known = ", ".join(sorted(symbols | {spec.name for spec in inputs}))
            raise UsageError(
                f"--shape {text}: {name!r} is neither a dynamic dimension nor an input; there are: {known}."
            )
    return {spec.name: whole.get(spec.name) or _range(spec, ranges) for spec in inputs if spec.symbols}


def _triple(option: str, text: str) -> tuple[int, int, int]:
    match = _TRIPLE.match(text)
    sizes = [int(part) for part in match.groups()] if match else []
    if not sizes or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise UsageError(f"{option} {text}: three sizes MIN:OPT:MAX are wanted, each at least the one before.")
    return sizes[0], sizes[1], sizes[2]


def _shapes(text: str, rest: str) -> ShapeRange:
    try:
        shapes = [tuple(int(size) for size in part.split("x")) for part in rest.split(":")]
    except ValueError as exc:
        raise UsageError(f"--shape {text}: shapes are written 1x3x224x224.") from exc
    ordered = len(shapes) == 3 and len({len(shape) for shape in shapes}) == 1
    if not ordered or any(not 1 <= low <= best <= high for low, best, high in zip(*shapes, strict=True)):
        raise UsageError(f"--shape {text}: three shapes MIN:OPT:MAX are wanted, each at least the one before.")
    return ShapeRange(least=shapes[0], best=shapes[1], greatest=shapes[2])


def _range(spec: TensorSpec, ranges: dict[str, tuple[int, int, int]]) -> ShapeRange:
    missing = [dim for dim in spec.symbols if dim not in ranges]
    if missing:
        raise UsageError(f"input {spec}: dimension {missing[0]!r} needs a range.", f"--shape {missing[0]}:MIN:OPT:MAX")
    least, best, greatest = (spec.concrete({name: sizes[end] for name, sizes in ranges.items()}) for end in range(3))
    return ShapeRange(least=least, best=best, greatest=greatest)
