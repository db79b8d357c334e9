"""The chain of exporters, each named ``A_to_B``, that leads to a format. None is imported."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.core import registry
from deploy.core.errors import UnknownNameError

EDGES = "exporters"
START = "torch"


def route(format: str, edges: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the shortest chain of exporters ``A_to_B`` from a PyTorch model to a format.

    ``edges`` replaces the exporters of this package and of third parties.

    Raises:
        UnknownNameError: no chain reaches the format.
    """
    chains = _chains(edges or registry.names(EDGES))
    if format not in chains:
        raise UnknownNameError("format", format, list(chains), f"known: {', '.join(chains)}")
    return chains[format]


def formats() -> tuple[str, ...]:
    """Return the formats that a PyTorch model can be exported to, sorted."""
    return tuple(_chains(registry.names(EDGES)))


def _chains(edges: Sequence[str]) -> dict[str, tuple[str, ...]]:
    chains: dict[str, tuple[str, ...]] = {START: ()}
    queue = [START]
    for here in queue:  # breadth first: the queue grows during the loop
        for name in edges:
            begin, separator, end = name.partition("_to_")
            if separator and begin == here and end not in chains:
                chains[end] = (*chains[here], name)
                queue.append(end)
    del chains[START]
    return dict(sorted(chains.items()))
