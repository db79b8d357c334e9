"""What a PyTorch model computes from its weights alone, which an exporter may store instead of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.backends.torch.reference import OperatorCall, PyTorchRunner
from deploy.core.model import Model
from deploy.core.runner import Feeds

_MIN_ELEMENTS = 17
"""Smaller constants may be equal to a stored tensor by chance."""


def computed_constants(model: Model, feeds: Feeds) -> list[tuple[frozenset[str], NDArray[Any]]]:
    """Return the results in float32 that depend on weights and on no input, with the names of these weights.

    They are collected where an operator combines them with a value that depends on an input, from one run on ``feeds``.
    """
    known: dict[int, tuple[frozenset[str], torch.Tensor]] = {}
    for name, tensor in [*model.module.named_parameters(), *model.module.named_buffers()]:
        known[id(tensor)] = (frozenset({name}), tensor)
    weights = set(known)
    found: dict[int, tuple[frozenset[str], torch.Tensor]] = {}

    def observe(call: OperatorCall) -> None:
        operands = [item for item in _flat(call.operands) if isinstance(item, torch.Tensor)]
        results = [item for item in _flat((call.result,)) if isinstance(item, torch.Tensor)]
        if all(id(item) in known for item in operands):
            names = frozenset().union(*(known[id(item)][0] for item in operands))
            for item in results:
                known.setdefault(id(item), (names, item))
            return
        for item in operands:
            names, _ = known.get(id(item), (frozenset(), item))
            if names and id(item) not in weights and item.numel() >= _MIN_ELEMENTS:
                found[id(item)] = (names, item)

    PyTorchRunner(model, "fp32", observe).run(feeds)
    return [(names, np.asarray(tensor.detach().cpu().numpy())) for names, tensor in found.values()]


def _flat(values: Any) -> list[Any]:
    return [leaf for item in values for leaf in (_flat(item) if isinstance(item, (list, tuple)) else [item])]
