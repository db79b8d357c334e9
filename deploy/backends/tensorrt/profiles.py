"""Inputs and outputs of an engine, and the choice of an optimization profile; none of this needs a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.core.errors import BackendError
from deploy.core.runner import Feeds

Shape = tuple[int, ...]

NUMPY_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""NumPy's names of TensorRT's types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """One input or output of an engine.

    Attributes:
        ranges: min, opt and max shape of an input in every profile; empty for an output.
        on_host: the engine reads the tensor on the CPU, because its values decide shapes.
    """

    name: str
    dtype: str
    ranges: tuple[tuple[Shape, Shape, Shape], ...] = ()
    on_host: bool = False


def check_feeds(inputs: Sequence[Binding], feeds: Feeds) -> dict[str, Shape]:
    """Return the shapes of the feeds, after checking their names and types."""
    names = {item.name for item in inputs}
    if set(feeds) != names:
        raise BackendError(f"the engine has the inputs {', '.join(sorted(names))}, got {', '.join(feeds) or 'none'}.")
    for item in inputs:
        dtype = feeds[item.name].dtype.name
        if dtype != item.dtype:
            raise BackendError(f"input {item.name!r} must be {item.dtype}, got {dtype}.")
    return {name: tuple(value.shape) for name, value in feeds.items()}


def choose_profile(inputs: Sequence[Binding], shapes: Mapping[str, Shape]) -> int:
    """Return the index of the profile that accepts these shapes and has the nearest opt shapes; ties: the first."""
    count = len(inputs[0].ranges) if inputs else 1
    accepting = [index for index in range(count) if all(_fits(item, index, shapes[item.name]) for item in inputs)]
    if not accepting:
        raise BackendError(_misfit(inputs, shapes, count), "deploy trt build --batch MIN:OPT:MAX, or --shape")

    def distance(index: int) -> int:
        pairs = (zip(shapes[item.name], item.ranges[index][1], strict=True) for item in inputs)
        return sum(abs(size - opt) for pair in pairs for size, opt in pair)

    return min(accepting, key=distance)


def numpy_type(name: str, tensor: str) -> str:
    """Return NumPy's name of a TensorRT type.

    Raises:
        BackendError: NumPy has no such type (bfloat16).
    """
    if name not in NUMPY_TYPES:
        raise BackendError(f"tensor {tensor!r} has the type {name}, which NumPy does not support.")
    return NUMPY_TYPES[name]


def static_shape(name: str, shape: Shape) -> Shape:
    """Return an output's shape, after checking that every size is known before the run."""
    if any(size < 0 for size in shape):
        raise BackendError(f"output {name!r} has a data-dependent shape ({_text(shape)}), which is not supported.")
    return shape


def _fits(item: Binding, index: int, shape: Shape) -> bool:
    low, _, high = item.ranges[index]
    return len(shape) == len(low) and all(low <= size <= high for low, size, high in zip(low, shape, high, strict=True))


def _misfit(inputs: Sequence[Binding], shapes: Mapping[str, Shape], count: int) -> str:
    """Name the first input that no profile accepts; if there is none, say that no profile accepts them together."""
    for item in inputs:
        if not any(_fits(item, index, shapes[item.name]) for index in range(count)):
            ranges = " or ".join(f"{_text(low)} to {_text(high)}" for low, _, high in item.ranges)
            return f"input {item.name!r} has the shape {_text(shapes[item.name])}; the engine accepts {ranges}."
    return f"no profile of the engine accepts {', '.join(f'{name} {_text(shape)}' for name, shape in shapes.items())}."


def _text(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a scalar"
