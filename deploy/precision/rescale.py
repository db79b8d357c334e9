"""Bring channels with very large or very small values into the range of half precision, by powers of two.

A channel is multiplied where it is made and divided where it is read, see `deploy.precision.channels`. The graph then
computes in float32 what it computed before, bit for bit, unless a value was subnormal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deploy.core.errors import UsageError
from deploy.core.runner import Feeds
from deploy.precision.channels import Channels, channels
from deploy.precision.plan import Rescaled
from exporters.half import SCRATCH_LIMIT, key, largest, save

TARGET = 2.0**12
"""What the values of a channel reach when it was too large: sums over several such channels stay in range."""

SMALLEST = 2.0**-10
"""A channel whose values are all smaller is raised: a thousandth of them would not be a normal float16 number."""


def rescale(path: Path, precision: str, inputs: Sequence[Feeds], headroom: float) -> tuple[Rescaled, ...]:
    """Rescale channels of a float32 graph, which `exporters.half.prepared` made, in place.

    Channels are too large if they come within a factor of ``headroom`` of what the precision can hold.

    Raises:
        ModelError: an operator has no evaluation in PyTorch.
    """
    if precision == "bf16":  # has the range of float32
        return ()
    found = channels(path, inputs)
    chosen = _chosen(found, largest(precision) / headroom)
    _apply(path, found, chosen)
    return tuple(
        Rescaled(node=node, channel=channel, channels=len(found.members[group]), exponent=exponent)
        for group, exponent in chosen.items()
        for node, channel in found.members[group][:1]
    )


def rescale_as(path: Path, rescaled: Sequence[Rescaled], inputs: Sequence[Feeds]) -> None:
    """Rescale a graph as another one with the same structure was.

    Raises:
        UsageError: it has no such channels.
        ModelError: an operator has no evaluation in PyTorch.
    """
    if not rescaled:
        return
    found = channels(path, inputs)
    groups = {member: group for group, members in found.members.items() for member in members}
    chosen = {groups.get((item.node, item.channel)): item.exponent for item in rescaled}
    if None in chosen:
        raise UsageError("channels that the plan rescales cannot be rescaled here.", "leave out --plan to search again")
    _apply(path, found, {group: exponent for group, exponent in chosen.items() if group is not None})


def _chosen(found: Channels, limit: float) -> dict[int, int]:
    """Return the power of two of each group that needs one and whose readers can take it."""
    chosen: dict[int, int] = {}
    for group in found.members:
        peak = found.peaks[group]
        if peak > limit or 0.0 < peak < SMALLEST:
            exponent = math.floor(math.log2((TARGET if peak > limit else 1.0) / peak))
            reads = math.ldexp(found.reads[group], -exponent)
            if reads == 0.0 or SMALLEST**2 < reads < limit:
                chosen[group] = exponent
    return chosen


def _apply(path: Path, found: Channels, chosen: dict[int, int]) -> None:
    if not chosen:
        return
    model = ir.load(path)
    ir.external_data.load_to_model(model)  # the file is written anew
    readers = {key(node): node for node in model.graph}
    for node, index in found.edits:
        exponents = found.exponents((node, index), chosen).numpy()
        weight = readers[node].inputs[index]
        if not exponents.any() or weight is None or weight.const_value is None:
            continue
        values = np.ldexp(weight.const_value.numpy(), exponents.astype(np.int32))
        if len(weight.uses()) > 1 or weight.is_graph_output():
            weight = ir.Value(name=f"{weight.name}_of_{node}", type=weight.type, shape=weight.shape)
            readers[node].replace_input_with(index, weight)
        weight.const_value = ir.Tensor(values, name=weight.name)
        model.graph.initializers[weight.name or ""] = weight
    save(model, path, SCRATCH_LIMIT)
