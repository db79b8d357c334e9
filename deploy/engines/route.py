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
    names = [name for name in (edges or registry.names(EDGES)) if "_to_" in name]
    chains: dict[str, tuple[str, ...]] = {START: ()}
    queue = [START]
    for here in queue:  # breadth first: the queue grows during the loop
        for name in names:
            begin, _, end = name.partition("_to_")
            if begin == here and end not in chains:
                chains[end] = (*chains[here], name)
                queue.append(end)
    known = sorted(set(chains) - {START})
    if format not in known:
        raise UnknownNameError("format", format, known, f"known: {', '.join(known)}")
    return chains[format]
