"""The sizes that a model itself accepts, found by trying it, where it refuses some of those that a check runs at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.errors import DeployError
from deploy.core.model import Model
from deploy.core.tensors import SizeRange, TensorSpec, size_ranges, symbols, with_ranges
from deploy.parity.kinds import Domain, draw
from deploy.parity.memory import RunMemory
from deploy.parity.sizes import BATCH, MAX_GROWTH, size_steps

MAX_MULTIPLE = 64
"""Largest divisor of a size that is tried."""


@dataclass(frozen=True, slots=True)
class AcceptedSizes:
    """The inputs, with the ranges that the model accepts, and the sizes that it refused by dimension."""

    inputs: tuple[TensorSpec, ...]
    refused: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]


def find_sizes(model: Model, inputs: Sequence[TensorSpec], domains: Mapping[str, Domain]) -> AcceptedSizes:
    """Try the model in float32 at other sizes of one dimension at a time, within the ranges that it is claimed for.

    Where it refuses a size, the range shrinks to multiples of the smallest step that it accepts, and to the sizes up to
    the first that it refuses.
    """
    refused: dict[str, tuple[int, ...]] = {}
    notes: list[str] = []
    memory = RunMemory()
    found = tuple(inputs)
    for dim in symbols(inputs):
        if dim == BATCH or dim not in model.sizes:
            continue
        trial = _Trial(model, found, domains, dim, memory)
        allowed = size_ranges(found)[dim]
        sizes = size_steps(trial.traced, allowed, sequence=True)
        bad = tuple(size for size in sizes if not trial.accepts(size))
        if bad and trial.accepts(trial.traced):
            refused[dim] = tuple(sorted(bad))
            allowed = trial.shrink(allowed)
            found = with_ranges(found, [allowed])
            listed = ", ".join(map(str, refused[dim]))
            notes.append(f"the model itself refuses {dim} {listed}; the file is claimed for {dim} {allowed}")
        if trial.too_large:
            listed = ", ".join(map(str, sorted(trial.too_large)))
            notes.append(f"not tried, since the model would take too much memory: {dim} {listed}")
    return AcceptedSizes(found, refused, tuple(notes))


class _Trial:
    """Runs the model at sizes of one dimension, and remembers which it accepts."""

    def __init__(
        self,
        model: Model,
        inputs: Sequence[TensorSpec],
        domains: Mapping[str, Domain],
        dim: str,
        memory: RunMemory,
    ) -> None:
        self.model, self.inputs, self.domains, self.dim, self.memory = model, inputs, domains, dim, memory
        self.too_large: set[int] = set()
        self.traced = model.sizes[dim]
        self._known: dict[int, bool] = {}

    def accepts(self, size: int) -> bool:
        """Return whether the model runs at a size, or is not run, since it would take too much memory."""
        if size not in self._known:
            self._known[size] = self._runs(size)
        return self._known[size]

    def _runs(self, size: int) -> bool:
        sizes = {**self.model.sizes, self.dim: size}
        rng = np.random.default_rng(0)
        shapes = {
            spec.name: tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape) for spec in self.inputs
        }
        values = sum(map(math.prod, shapes.values()))
        growth = size / self.traced  # far away, memory may grow with the square, as that of attention does
        if not self.memory.allows(values, growth if growth > MAX_GROWTH else 1.0):
            self.too_large.add(size)
            return True
        feeds = {
            spec.name: draw(spec, self.domains[spec.name], "normal", 0, shapes[spec.name], rng) for spec in self.inputs
        }
        try:
            with self.memory.measured(values):
                PyTorchRunner(self.model, "fp32").run(feeds)
        except DeployError:
            return False
        return True

    def shrink(self, allowed: SizeRange) -> SizeRange:
        """Return the part of a range that the model accepts, as far as it was tried."""
        steps = [
            step for step in range(allowed.multiple, MAX_MULTIPLE + 1, allowed.multiple) if self.traced % step == 0
        ]
        step = next((step for step in steps if self.accepts(self.traced + step)), None)
        if step is None:  # nothing above is accepted
            step = next(
                (step for step in steps if self.traced > step and self.accepts(self.traced - step)), allowed.multiple
            )
        high, low = self._last(step, allowed), self._last(-step, allowed)
        return allowed.intersect(SizeRange(dim=self.dim, min=low or step, max=high, multiple=step))

    def _last(self, step: int, allowed: SizeRange) -> int | None:
        """Return the last accepted size before the model refuses one, in steps; None where it refuses none."""
        bad = [
            size
            for size, fine in self._known.items()
            if not fine and (size - self.traced) * step > 0 and size % abs(step) == 0 and allowed.allows(size)
        ]
        if not bad:
            return None
        good, refused = 0, min(abs(size - self.traced) for size in bad) // abs(step)
        while refused - good > 1:
            middle = (good + refused) // 2
            good, refused = (middle, refused) if self.accepts(self.traced + middle * step) else (good, middle)
        return self.traced + good * step
