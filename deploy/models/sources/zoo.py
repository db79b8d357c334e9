"""The zoo: classic networks, implemented in `deploy.models.zoo` with one file per family."""

from __future__ import annotations

from functools import cache

from deploy.core import registry
from deploy.core.errors import UsageError
from deploy.core.model import UNTRAINED, Model, Preprocessing, Weights
from deploy.core.tensors import TensorSpec
from deploy.models.request import ModelRequest
from deploy.models.zoo_entry import ZooEntry

FAMILIES = "deploy.models.zoo"


@cache
def entries() -> dict[str, ZooEntry]:
    """Return the networks of all families by name."""
    merged: dict[str, ZooEntry] = {}
    for family in registry.names(FAMILIES):
        merged.update(registry.load(FAMILIES, family).ENTRIES)
    return merged


def names() -> list[str]:
    """Return the names of all networks."""
    return list(entries())


def summary(name: str) -> str:
    """Return the description of a network in one line."""
    return entries()[name].summary


def build(name: str, request: ModelRequest) -> Model:
    """Build a network with the weights that its constructor draws."""
    entry = entries()[name]
    for option in request.options:
        if option not in entry.options:
            raise UsageError(f"zoo/{name} has no option {option!r}; it has: {', '.join(entry.options) or 'none'}.")
    options = request.typed_options()
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
        weights=Weights(source=UNTRAINED, trained=False, seed=request.seed),
        preprocessing=Preprocessing(
            crop=(height, width), mean=(0.5,) * channels, std=(0.5,) * channels, gray=channels == 1
        ),
        task=entry.task,
    )


def published(name: str, model: Model) -> tuple[str, str] | None:
    """Return None: there are no published weights for these networks."""
    return None
