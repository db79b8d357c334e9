"""What half precision would do to each value and each weight of a graph.

The graph is run in float32, whose own rounding is 8,192 times finer than that of float16, and backwards from random
combinations of its outputs. For each value and each rounded weight that gives the first-order effect of its rounding on
the outputs, as a share of their signal. Effects of different values are treated as independent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from deploy.backends.torch.reference import PRECISIONS
from deploy.core.runner import Feeds
from deploy.onnx_graph.graph import OnnxModule, Step
from deploy.onnx_graph.node import Values
from deploy.precision.ranges import first_result
from deploy.support import onnx_file
from exporters.half import MOVES, TYPED

DRAWS = 2
"""Random combinations of the outputs for each input."""


@dataclass(slots=True)
class NodeFacts:
    """What is known of a node, named by its first result.

    Attributes:
        inputs, outputs: values that it reads and makes; a value that is only moved has the name of its origin.
        effects: what rounding its weights does to the outputs, by draw.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    effects: dict[int, float] = field(default_factory=dict)

    @property
    def noise(self) -> float:
        """Mean square of the effect of rounded weights."""
        return mean_square(self.effects)


@dataclass(slots=True)
class Survey:
    """All nodes in execution order, and what rounding each value does to the outputs, by draw."""

    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))


def mean_square(effects: Mapping[int, float]) -> float:
    """Return the mean square over draws; 0 where no output depends on it."""
    return sum(effect * effect for effect in effects.values()) / len(effects) if effects else 0.0


def survey(path: Path, precision: str, inputs: Sequence[Feeds], *, seed: int = 0) -> Survey:
    """Run a graph, which `exporters.half.prepared` made, and return what rounding does to its outputs.

    Raises:
        ModelError: an operator has no evaluation in PyTorch.
    """
    module = _Surveyed(onnx_file.load(path), path.parent, PRECISIONS[precision])
    generator = torch.Generator().manual_seed(seed)
    draw = 0
    for feeds in inputs:
        outputs = module.follow(feeds)
        floats = [value for value in outputs if value.is_floating_point() and value.requires_grad]
        for _ in range(DRAWS if floats else 0):
            module.draw, draw = draw, draw + 1
            torch.autograd.backward([_combined(floats, generator)], retain_graph=True)
        module.release()
    return module.found


def _combined(outputs: Iterable[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return a random combination of outputs: the mean square of its noise is their noise-to-signal ratio, squared."""
    parts = []
    for value in outputs:
        constant = value.detach()
        varying = constant - constant.mean(0, keepdim=True) if value.dim() and len(value) > 1 else constant
        signal = varying.square().mean().sqrt()
        if not signal > 0:
            signal = constant.square().mean().sqrt()
        if signal > 0 and signal.isfinite():
            signs = torch.randint(0, 2, value.shape, generator=generator).to(value.dtype) * 2 - 1
            parts.append((value * signs).sum() / (signal * math.sqrt(value.numel())))
    total = torch.stack(parts or [torch.zeros((), requires_grad=True)])
    return total.sum() / math.sqrt(len(total))


class _Surveyed(OnnxModule):
    """A graph that records what its nodes compute, and with hooks what flows back to them."""

    def __init__(self, model: onnx.ModelProto, folder: Path, half: torch.dtype) -> None:
        super().__init__(model, folder)
        self.found = Survey()
        self.draw = 0
        self._half = half
        self._origins: dict[str, str] = {}
        self._weights = set(self.stored())
        self._hooks: list[Any] = []

    def follow(self, feeds: Feeds) -> list[torch.Tensor]:
        """Run once, keeping what is needed to go backwards."""
        values: dict[str, torch.Tensor] = {}
        for name in self.inputs:
            value = torch.from_numpy(np.array(feeds[name], order="C"))
            if value.is_floating_point():
                value = value.float().requires_grad_()
                self._watch(name, value)
            values[name] = value
        with torch.enable_grad():
            return [value for value in self.run(values) if isinstance(value, torch.Tensor)]

    def release(self) -> None:
        """Drop the recorded run."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def compute(self, step: Step, scope: Values, *inputs: Any) -> tuple[Any, ...]:
        """Return the results of one node, and record it."""
        results = super().compute(step, scope, *inputs)
        node = step.node
        if node.operator in MOVES and not node.domain:
            for name in node.outputs:
                self._origins[name] = self._origin(node.inputs[0])
            return results
        facts = self._facts(step)
        if step.scoped or node.operator in TYPED:
            return results
        rounded = self._weight_noise(step, scope, inputs, results)
        kept = []
        for index, value in enumerate(results):
            if isinstance(value, torch.Tensor) and value.dtype is torch.float32:
                if not value.requires_grad:
                    value = value.detach().requires_grad_()
                noise = rounded[index] if index < len(rounded) else None
                name = node.outputs[index] if index < len(node.outputs) else ""
                if name:
                    self._watch(name, value, facts, noise)
            kept.append(value)
        return tuple(kept)

    def _origin(self, name: str) -> str:
        return self._origins.get(name, name)

    def _facts(self, step: Step) -> NodeFacts:
        node = step.node
        key = first_result(node)
        if key not in self.found.nodes:
            read = dict.fromkeys(self._origin(name) for name in node.inputs if name)
            inputs = tuple(name for name in read if name not in self._weights)
            self.found.nodes[key] = NodeFacts(inputs=inputs, outputs=tuple(filter(None, node.outputs)))
        return self.found.nodes[key]

    def _weight_noise(
        self, step: Step, scope: Values, inputs: Sequence[Any], results: Sequence[Any]
    ) -> list[torch.Tensor | None]:
        """Return what rounding the weights of a node does to its results."""
        rounded = [
            value.to(self._half).float() if self._origin(name) in self._weights and value.is_floating_point() else value
            for name, value in zip(step.node.inputs, inputs, strict=True)
        ]
        if all(one is other for one, other in zip(rounded, inputs, strict=True)):
            return []
        with torch.no_grad():
            others = super().compute(step, scope, *rounded)
            return [
                other - value if isinstance(value, torch.Tensor) and value.dtype is torch.float32 else None
                for other, value in zip(others, results, strict=True)
            ]

    def _watch(
        self, name: str, value: torch.Tensor, facts: NodeFacts | None = None, noise: torch.Tensor | None = None
    ) -> None:
        """Record, whenever a run goes backwards, the effects of rounding a value and the weights that made it."""
        values, kept = self.found.values[name], value.detach()
        rounding = kept.to(self._half).float().sub_(kept)

        def record(gradient: torch.Tensor) -> None:
            values[self.draw] = values.get(self.draw, 0.0) + _product(gradient, rounding)
            if facts is not None and noise is not None:
                facts.effects[self.draw] = facts.effects.get(self.draw, 0.0) + _product(gradient, noise)

        self._hooks.append(value.register_hook(record))  # type: ignore[no-untyped-call]


def _product(gradient: torch.Tensor, noise: torch.Tensor) -> float:
    """Return the inner product over finite values."""
    total = float(torch.dot(gradient.reshape(-1), noise.reshape(-1)))
    if math.isfinite(total):
        return total
    return float(torch.nan_to_num(gradient * noise, nan=0.0, posinf=0.0, neginf=0.0).sum(dtype=torch.float64))
