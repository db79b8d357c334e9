"""Untrained weights that a check can see through.

A freshly built network hides faults: its biases are zero, its scales are one, some heads and residual branches
are zero altogether, and without settled batch-norm statistics its activations grow or die with depth. Seeded, and
the same in every command:

1. every parameter whose values are all equal gets seeded noise of standard deviation 0.1 added to it;
2. batch-norm statistics become those of seeded data, layer after layer, computed in float64 so that another
   machine or another number of threads settles on the same float32 values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deploy.core.model import Model
from deploy.support.precision import computed_in

JITTER = 0.1
SAMPLES = 4


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this context torch's global generator is seeded; afterwards it is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def jitter(module: torch.nn.Module, seed: int) -> int:
    """Step 1; returns how many parameters were changed."""
    generator = torch.Generator().manual_seed(seed)
    changed = 0
    with torch.no_grad():
        for _, value in module.named_parameters():
            if value.is_floating_point() and value.numel() > 1 and bool((value == value.flatten()[0]).all()):
                value.add_(torch.randn(value.shape, generator=generator) * JITTER)
                changed += 1
    return changed


def statistics(module: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Moving mean and variance of a batch normalisation, PyTorch's or the zoo's; None for another module."""
    for mean, var in (("running_mean", "running_var"), ("moving_mean", "moving_var")):
        pair = getattr(module, mean, None), getattr(module, var, None)
        if isinstance(pair[0], torch.Tensor) and isinstance(pair[1], torch.Tensor):
            return pair[0], pair[1]
    return None


def settle(model: Model, seed: int) -> int:
    """Step 2; returns how many layers were settled."""
    settled = 0

    def observe(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal settled
        found = statistics(module)
        if found is None or not args:
            return
        x = args[0]
        dims = [axis for axis in range(x.dim()) if axis != 1]
        if x.numel() // x.shape[1] < 2:
            return
        mean, var = torch.mean(x, dims), torch.var(x, dims, unbiased=False)
        found[0].data = mean.reshape(found[0].shape).to(torch.float32)
        found[1].data = var.reshape(found[1].shape).to(torch.float32)
        settled += 1

    norms = [module for module in model.module.modules() if statistics(module) is not None]
    if not norms:
        return 0
    hooks = [module.register_forward_pre_hook(observe) for module in norms]
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for spec in model.inputs:
        shape = spec.concrete({**model.sizes, "batch": SAMPLES})
        if spec.dtype.startswith("float"):
            tensors[spec.name] = torch.randn(shape, generator=generator, dtype=torch.float64)
        else:
            low, high = spec.bounds or (0, 2)
            tensors[spec.name] = torch.randint(low, high, shape, generator=generator).to(getattr(torch, spec.dtype))
    try:
        with computed_in(torch.float64):
            model.call(tensors)
    finally:
        for hook in hooks:
            hook.remove()
    return settled
