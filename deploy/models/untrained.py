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


def statistic_names(module: torch.nn.Module) -> tuple[str, str] | None:
    """Buffers with the moving mean and variance of a batch normalization, PyTorch's or the zoo's; else None."""
    for mean, var in (("running_mean", "running_var"), ("moving_mean", "moving_var")):
        if isinstance(getattr(module, mean, None), torch.Tensor) and isinstance(
            getattr(module, var, None), torch.Tensor
        ):
            return mean, var
    return None


def settle(model: Model, seed: int) -> int:
    """Step 2; returns how many layers were settled."""
    norms = {module: names for module in model.module.modules() if (names := statistic_names(module))}
    settled: set[torch.nn.Module] = set()

    def observe(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if x.numel() // x.shape[1] < 2:
            return
        dims = [axis for axis in range(x.dim()) if axis != 1]
        for name, value in zip(norms[module], (x.mean(dims), x.var(dims, unbiased=False)), strict=True):
            setattr(module, name, value.reshape(getattr(module, name).shape))  # float64 until the pass is over
        settled.add(module)

    if not norms:
        return 0
    hooks = [module.register_forward_pre_hook(observe) for module in norms]
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for spec in model.inputs:
        shape = spec.concrete({**model.sizes, "batch": SAMPLES})
        if spec.dtype.startswith("float"):
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            tensors[spec.name] = (
                drawn if spec.bounds is None else drawn.sigmoid() * (spec.bounds[1] - spec.bounds[0]) + spec.bounds[0]
            )
        else:
            low, high = spec.bounds or (0, 2)
            drawn = torch.randint(int(low), int(high), shape, generator=generator)
            tensors[spec.name] = drawn.to(getattr(torch, spec.dtype))
    try:
        with computed_in(torch.float64, model.module):
            model.call(tensors)
    finally:
        for hook in hooks:
            hook.remove()
        for module in settled:
            for name in norms[module]:
                setattr(module, name, getattr(module, name).to(torch.float32))
    return len(settled)
