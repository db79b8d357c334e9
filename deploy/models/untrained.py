"""Untrained weights that do not hide export errors.

A freshly built network hides errors: its biases are zero, its scales are one, some heads and residual branches are
all zero, and with initial batch-norm statistics its activations grow or vanish with depth. These two steps are seeded
and the same in every command:

1. `perturb_constants` adds noise of standard deviation 0.1 to every parameter whose values are all equal.
2. `set_batch_norm_statistics` sets the statistics to those of seeded data, layer by layer, and enlarges scales that
   make the results vanish. It computes in float64, so that other machines and numbers of threads give the same
   float32 values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deploy.core.errors import DeployError
from deploy.core.model import Model
from deploy.core.tensors import TensorSpec
from deploy.support.precision import computed_in
from deploy.support.runtime_errors import refused_inputs

NOISE = 0.1
SAMPLES = 4
FEW = 64
"""Number of weights from which a layer can show how it was initialized."""
FAINT = 0.05
"""Standard deviation of the results of a normalization below which its scales are enlarged: half of `NOISE`."""
LEAST_VARIATION = 1e-6
"""Variance of a channel, relative to the square of its mean, below which it is taken for constant."""
LAYERS = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
NORMS = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm, torch.nn.GroupNorm)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator within this context and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def perturb_constants(module: torch.nn.Module, seed: int) -> int:
    """Add noise to every parameter whose values are all equal; return the number of changed parameters."""
    generator = torch.Generator().manual_seed(seed)
    changed = 0
    with torch.no_grad():
        for value in module.parameters():
            if value.is_floating_point() and value.numel() > 1 and bool((value == value.flatten()[0]).all()):
                value.add_(torch.randn(value.shape, generator=generator) * NOISE)
                changed += 1
    return changed


def is_fresh(module: torch.nn.Module) -> bool:
    """Return whether the parameters of a module are certainly as PyTorch initializes them.

    If there are normalization layers with scales and shifts, these decide: each scale has one value, each shift is
    zero. Otherwise the weights of all linear layers and convolutions fill the interval of the default initialization,
    ±1/√(inputs of an output), and none is outside.
    """
    scaled = [part for part in module.modules() if isinstance(part, NORMS) and isinstance(part.weight, torch.Tensor)]
    if scaled:
        return all(
            _is_constant(part.weight) and not torch.count_nonzero(part.bias) for part in scaled if part.bias is not None
        )
    layers = [part for part in module.modules() if isinstance(part, LAYERS) and isinstance(part.weight, torch.Tensor)]
    filled = []
    for part in layers:
        weight = part.weight.detach()
        if weight.numel() < FEW or not weight.is_floating_point() or weight.is_meta:
            continue
        bound = weight[0].numel() ** -0.5
        filled.append(0.95 * bound <= float(weight.abs().max()) <= 1.001 * bound)
    return bool(filled) and all(filled)


def _is_constant(value: torch.Tensor) -> bool:
    return bool((value == value.flatten()[0]).all())


def statistic_names(module: torch.nn.Module) -> tuple[str, str] | None:
    """Return the names of a layer's running mean and variance (PyTorch's or the zoo's batch norm), or None."""
    for mean, var in (("running_mean", "running_var"), ("moving_mean", "moving_var")):
        if all(isinstance(getattr(module, name, None), torch.Tensor) for name in (mean, var)):
            return mean, var
    return None


def set_batch_norm_statistics(model: Model, seed: int) -> None:
    """Set the batch-norm statistics to those of seeded samples.

    The run ends behind the last layer with statistics: the heads of a large detector take longer than all before.

    Raises:
        ModelError: the model does not run on its inputs.
    """
    norms = {module: names for module in model.module.modules() if (names := statistic_names(module))}
    found: dict[torch.nn.Module, dict[str, torch.Tensor]] = {}
    factors: dict[torch.nn.Module, float] = {}

    def observe(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        channels = getattr(module, norms[module][0]).numel()
        if x.numel() // x.shape[1] < 2 or x.shape[1] != channels:  # the layer itself refuses other channels
            return
        dims = [axis for axis in range(x.dim()) if axis != 1]
        statistics = zip(norms[module], (x.mean(dims), x.var(dims, unbiased=False)), strict=True)
        found[module] = {name: value.reshape(getattr(module, name).shape) for name, value in statistics}
        factors[module] = _amplification(module, *found[module].values())
        for name, value in found[module].items():
            setattr(module, name, value)  # float64 until the pass is over
        if factors[module] != 1.0:
            module.get_parameter("weight").mul_(factors[module])  # until the pass is over, too
        if len(found) == len(norms):
            raise _Done

    if not norms:
        return
    generator = torch.Generator().manual_seed(seed)
    tensors = {spec.name: _random(spec, {**model.sizes, "batch": SAMPLES}, generator) for spec in model.inputs}
    hooks = [module.register_forward_pre_hook(observe) for module in norms]
    try:
        with computed_in(torch.float64, model.module):
            model.call(tensors)
    except _Done:
        pass
    except DeployError:
        raise
    except Exception as exc:
        raise refused_inputs(model.name, model.inputs, exc) from exc
    finally:
        for hook in hooks:
            hook.remove()
    for module, values in found.items():
        for name, value in values.items():
            setattr(module, name, value.to(getattr(module, name).dtype))
        if factors[module] != 1.0:
            with torch.no_grad():
                module.get_parameter("weight").mul_(factors[module])


class _Done(BaseException):
    """All statistics are set; no error, so that nothing on the way takes it for one."""


def _amplification(module: torch.nn.Module, mean: torch.Tensor, var: torch.Tensor) -> float:
    """Return what to multiply the scales of a normalization by whose results vary too little to be seen.

    Its variance may be far below its epsilon, or its scales may be created near 0. Channels that are constant but for
    rounding do not count.
    """
    scale, epsilon = getattr(module, "weight", None), getattr(module, "eps", 0.0)
    live = var > LEAST_VARIATION * mean.square()
    if not isinstance(scale, torch.nn.Parameter) or scale.shape != var.shape or not live.any():
        return 1.0
    results = scale.detach() * (var / (var + epsilon)).sqrt()
    size = float(results[live].square().mean().sqrt())
    return 1.0 / size if 0.0 < size < FAINT else 1.0


def _random(spec: TensorSpec, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = spec.concrete(sizes)
    if not spec.dtype.startswith("float"):
        low, high = spec.bounds or (0, 2)
        return torch.randint(int(low), int(high), shape, generator=generator).to(getattr(torch, spec.dtype))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    if spec.bounds is None:
        return values
    low, high = spec.bounds
    return values.sigmoid() * (high - low) + low
