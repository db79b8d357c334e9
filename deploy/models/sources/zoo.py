"""The zoo: the classic networks, ours, one family a file in `deploy.models.zoo`."""

from __future__ import annotations

from functools import cache
from typing import Any

from deploy.core import registry
from deploy.core.errors import UsageError
from deploy.core.model import Model, Preprocessing, Weights
from deploy.core.tensors import TensorSpec
from deploy.models.request import ModelRequest, typed
from deploy.models.zoo._entry import ZooEntry

FAMILIES = "deploy.models.zoo"


@cache
def entries() -> dict[str, ZooEntry]:
    """Every network of every family by its name."""
    found: dict[str, ZooEntry] = {}
    for family in registry.names(FAMILIES):
        found.update(registry.load(FAMILIES, family).ENTRIES)
    return found


def names() -> list[str]:
    """Every network of the zoo."""
    return list(entries())


def summary(name: str) -> str:
    """What it is, in one line."""
    return entries()[name].summary


def build(name: str, request: ModelRequest) -> Model:
    """Build a network with the weights its constructor draws.

    Raises:
        UsageError: it does not take an option.
    """
    entry = entries()[name]
    for option in request.options:
        if option not in entry.options:
            raise UsageError(f"zoo/{name} has no option {option!r}; it has: {', '.join(entry.options) or 'none'}.")
    options = {key: typed(value) for key, value in request.options.items()}
    try:
        module = entry.build(**options)
    except (TypeError, ValueError) as exc:
        raise UsageError(f"zoo/{name}: {exc}") from exc
    channels, height, width = entry.input_shape
    channels = int(options.get("in_channels", channels))
    return Model(
        name=f"zoo/{name}",
        slug=name,
        module=module.eval(),
        inputs=(TensorSpec(name="input", dtype="float32", shape=("batch", channels, height, width)),),
        sizes={"batch": 2},
        weights=Weights(source="untrained", trained=False, seed=request.seed),
        preprocessing=Preprocessing(
            crop=(height, width), mean=(0.5,) * channels, std=(0.5,) * channels, gray=channels == 1
        ),
    )


def published(name: str, model: Model) -> tuple[str, str, Any] | None:
    """None: nobody publishes weights for these."""
    return None
