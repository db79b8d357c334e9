"""What was asked for: enough to build the same model again, in another process or on another day."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.core.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRequest:
    """A model as the user names it.

    Attributes:
        name: see the table of names in the command line's documentation.
        weights: ``auto``, ``default``, ``none`` or a file.
        arch: the architecture, where ``name`` is a checkpoint.
        seed: of untrained weights.
        inputs: ``--input`` texts, where the model does not say what it takes.
        options: options of the architecture, ``num_classes=10``.
    """

    name: str
    weights: str = "auto"
    arch: str | None = None
    seed: int = 0
    inputs: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelRequest:
        """The inverse of `to_dict`."""
        return cls(**{**data, "inputs": tuple(data.get("inputs", ()))})


def typed(text: str) -> Any:
    """An option's text as the value it spells: integer, float, true, false, none, or the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_options(items: tuple[str, ...]) -> dict[str, str]:
    """Read ``key=value`` texts.

    Raises:
        UsageError: one has another form.
    """
    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"-o {item!r} is not of the form key=value.")
        options[key] = value
    return options
