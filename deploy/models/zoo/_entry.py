"""What a family file says about each of its networks, and the checks on their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooEntry:
    """One named network of the zoo.

    Everything below `build` describes the network with its default options.

    Attributes:
        build: Returns a fresh network in training mode; takes keyword options only. Its weights come
            from torch's global generator, which the caller seeds.
        input_shape: Channels, height and width of one image.
        summary: What it is, in one line, with the year.
        paper: Authors, title and year.
        parameters: How many trainable numbers it has.
        options: For each option of `build`, the allowed values, or the type its text is parsed as.
        stages: Names of the submodules, in the order they run, whose outputs are listed in `shapes`;
            the empty name is the network itself (as in `nn.Module.get_submodule`).
        shapes: The output shape of each of the `stages`, without the batch dimension.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    summary: str
    paper: str
    parameters: int
    options: Mapping[str, tuple[object, ...] | type]
    stages: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


def require_choice(option: str, value: object, allowed: tuple[object, ...]) -> None:
    """Check that an option has one of its allowed values.

    Raises:
        ValueError: If `value` is not among `allowed`.
    """
    if value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{option} must be one of {choices}; got {value!r}")


def require_counts(**counts: object) -> None:
    """Check that every option passed is a whole number of at least 1, such as a number of channels.

    Raises:
        ValueError: If one of them is not.
    """
    for option, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{option} must be a whole number of at least 1; got {value!r}")
