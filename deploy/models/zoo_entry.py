"""What a family file of the zoo declares about its networks, and helpers to build them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from deploy.tasks.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooEntry:
    """One named network of the zoo.

    Attributes:
        build: Returns a new network in training mode; takes keyword options only. Its weights come
            from torch's global generator, which the caller seeds.
        input_shape: Channels, height and width of one image, with the default options.
        summary: A description in one line, with the year.
        options: For each option of `build`, the allowed values, or the type that its text is parsed as.
        task: What the outputs are, see `deploy.tasks.task`.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    summary: str
    options: Mapping[str, tuple[object, ...] | type]
    task: Task = "classification"


def require_choice(option: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ValueError unless an option has one of its allowed values."""
    if value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{option} must be one of {choices}; got {value!r}")


def require_counts(**counts: object) -> None:
    """Raise ValueError unless options, such as numbers of channels, are integers of at least 1."""
    for option, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{option} must be an integer of at least 1; got {value!r}")


def he_normal_(network: nn.Module) -> None:
    """Draw all convolution and linear weights from He's normal distribution and set their biases to zero.

    The variance is 2 / fan_in, which preserves the variance of the signal through a stack of relu layers (He, Zhang,
    Ren, Sun, "Delving Deep into Rectifiers", 2015, equation 10). PyTorch's default variance is a sixth of that. In a
    deep network without batch normalization, the output then depends on the biases and hardly on the input: the
    network does not train, and untrained copies of it cannot be told apart by their outputs.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
