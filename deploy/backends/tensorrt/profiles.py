"""What an engine takes and gives, and which of its profiles serves some shapes: no GPU is needed to decide that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.core.errors import BackendError
from deploy.core.runner import Feeds

Shape = tuple[int, ...]

NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""TensorRT's names of the types that a numpy array can have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """One input or output of an engine.

    Attributes:
        dtype: numpy's name.
        ranges: an input's low, opt and high shape in every profile; empty for an output.
        on_host: the engine reads it on the CPU: it decides shapes.
    """

    name: str
    dtype: str
    ranges: tuple[tuple[Shape, Shape, Shape], ...] = ()
    on_host: bool = False


def check_feeds(inputs: Sequence[Binding], feeds: Feeds) -> dict[str, Shape]:
    """The shapes of the feeds, which are those that the engine takes, of its types.

    Raises:
        BackendError: one is missing, unknown, or of another type.
    """
    known = {item.name for item in inputs}
    if set(feeds) != known:
        raise BackendError(
            f"the engine takes {', '.join(sorted(known))}; it was given {', '.join(feeds) or 'nothing'}."
        )
    for item in inputs:
        found = feeds[item.name].dtype.name
        if found != item.dtype:
            raise BackendError(f"input {item.name!r} is {found}; the engine takes {item.dtype}.")
    return {name: tuple(value.shape) for name, value in feeds.items()}


def choose_profile(inputs: Sequence[Binding], shapes: Mapping[str, Shape]) -> int:
    """The profile that takes these shapes and was made for the nearest ones; the first among equals.

    Raises:
        BackendError: none does.
    """
    count = len(inputs[0].ranges) if inputs else 1
    fitting = [index for index in range(count) if all(_fits(item, index, shapes[item.name]) for item in inputs)]
    if not fitting:
        raise BackendError(_misfit(inputs, shapes, count), "deploy trt build --batch MIN:OPT:MAX, or --shape")
    return min(fitting, key=lambda index: sum(_distance(item, index, shapes[item.name]) for item in inputs))


def _fits(item: Binding, index: int, shape: Shape) -> bool:
    low, _, high = item.ranges[index]
    return len(shape) == len(low) and all(low <= size <= high for low, size, high in zip(low, shape, high, strict=True))


def _distance(item: Binding, index: int, shape: Shape) -> int:
    return sum(abs(size - opt) for size, opt in zip(shape, item.ranges[index][1], strict=True))


def _misfit(inputs: Sequence[Binding], shapes: Mapping[str, Shape], count: int) -> str:
    """The first input that fits no profile; where each fits one alone, that they do not fit together."""
    for item in inputs:
        if not any(_fits(item, index, shapes[item.name]) for index in range(count)):
            told = " or ".join(f"{_text(low)} to {_text(high)}" for low, _, high in item.ranges)
            return f"input {item.name!r} is {_text(shapes[item.name])}; the engine takes {told}."
    return f"no profile of the engine takes {', '.join(f'{name} {_text(shape)}' for name, shape in shapes.items())}."


def _text(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def numpy_type(name: str, tensor: str) -> str:
    """Numpy's name of a TensorRT type.

    Raises:
        BackendError: numpy has none, as for bfloat16.
    """
    if name not in NUMPY:
        raise BackendError(f"tensor {tensor!r} of the engine is {name}, which no numpy array can be.")
    return NUMPY[name]


def known_sizes(name: str, shape: Shape) -> Shape:
    """An output's shape, every size of which is known before it runs.

    Raises:
        BackendError: one depends on values.
    """
    if any(size < 0 for size in shape):
        raise BackendError(f"output {name!r} has a size that depends on values ({_text(shape)}): it cannot be bound.")
    return shape
