"""The values that a graph computes: how large, how expensive, and where they are lost in half precision."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from deploy.core.errors import DeployError
from deploy.core.runner import Feeds
from deploy.onnx_graph.graph import OnnxModule, Step
from deploy.onnx_graph.node import OnnxNode, Values
from deploy.onnx_graph.rounded import RoundedModule
from deploy.support import onnx_costs, onnx_file
from deploy.support.runtime_errors import run_error

INFINITE = 1e30
"""Magnitudes from here on stand for infinity, as in masks."""

HEADROOM = 2.0
"""A value overflows if it comes within this factor of the largest number of the precision: other inputs may go beyond
those that were run."""

DIFFERENCES = ("Sub", "Add", "Sum", "ReduceMean", "ReduceSum")
"""Operators whose operands may cancel."""

SUMS = ("ReduceMean", "ReduceSum", "ReduceLogSumExp")
"""Operators with results that may be far smaller than the sum behind them, which ONNX Runtime's CUDA provider keeps in
float16 (`benchmarks/half_sums.py`)."""


@dataclass(slots=True)
class Ranges:
    """Facts about the nodes of a float32 graph over some inputs; a node is named by its first result.

    Attributes:
        largest: largest magnitude among operands and results, stand-ins for infinity aside.
        sums: of operators in `SUMS`, a bound of the sum behind a result, in any order of its terms.
        operations: of all inputs together; at least one for each value of a result.
        cancels: by what factor operands are larger than their sum or difference, at most.
        infinite: nodes with results that are not finite.
    """

    largest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    operations: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cancels: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    infinite: set[str] = field(default_factory=set)


def ranges(path: Path, inputs: Iterable[Feeds]) -> Ranges:
    """Run a float32 graph and return what its nodes compute.

    Raises:
        ModelError: an operator has no evaluation in PyTorch.
        BackendError: the graph does not run on the inputs.
    """
    module = _Measured(onnx_file.load(path), path.parent)
    for feeds in inputs:
        _run(module, feeds)
    return module.found


def overflowing(found: Ranges, limit: float) -> dict[str, str]:
    """Return the nodes whose values, or the sums behind them, come within `HEADROOM` of ``limit``, and how large."""
    result = {}
    for name, value in found.largest.items():
        peak = max(value, found.sums.get(name, 0.0))
        if peak * HEADROOM > limit:
            result[name] = f"largest {'value' if value * HEADROOM > limit else 'sum'} {peak:.3g}"
    return result


def first_lost(path: Path, feeds: Feeds, found: Ranges) -> tuple[str, ...]:
    """Run a graph in half precision until a result is not finite that is finite in float32.

    Returns:
        The node and those that make its operands, by their first results; empty if there is none.
    """
    module = _Searching(onnx_file.load(path), path.parent, found.infinite)
    with contextlib.suppress(_Lost):
        _run(module, feeds)
    return module.lost


def first_result(node: OnnxNode) -> str:
    """Return the name of a node's first result."""
    return next(filter(None, node.outputs), node.name)


def _run(module: OnnxModule, feeds: Feeds) -> None:
    tensors = [torch.from_numpy(np.array(feeds[name], order="C")) for name in module.inputs]
    try:
        with torch.inference_mode():
            module(*tensors)
    except (DeployError, _Lost):
        raise
    except Exception as exc:
        raise run_error("the graph, node by node", feeds, str(exc)) from exc


class _Measured(OnnxModule):
    """A graph that records facts about its nodes."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        super().__init__(model, folder)
        self.found = Ranges()

    def compute(self, step: Step, scope: Values, *inputs: Any) -> tuple[Any, ...]:
        """Return the results of one node, and record them."""
        results = super().compute(step, scope, *inputs)
        node, found = step.node, self.found
        operands, made, name = list(_floats(inputs)), list(_floats(results)), first_result(step.node)
        found.largest[name] = max([found.largest[name], *map(_largest, (*operands, *made))])
        if not all(bool(value.isfinite().all()) for value in made):
            found.infinite.add(name)
        if made and node.operator in SUMS and not node.domain:
            found.sums[name] = max(found.sums[name], self._largest_sum(step, scope, inputs, made[0]))
        if made and node.operator in DIFFERENCES:
            size = _rms(made[0])
            found.cancels[name] = max(found.cancels[name], max(map(_rms, operands), default=0.0) / size if size else 0)
        found.operations[name] += max(_operations(node, inputs, results), sum(value.numel() for value in made))
        return results

    def _largest_sum(self, step: Step, scope: Values, inputs: Sequence[Any], result: torch.Tensor) -> float:
        """Return the largest sum of magnitudes; of exponentials, which are divided by the largest one, their number."""
        count = inputs[0].numel() / result.numel()
        if step.node.operator == "ReduceLogSumExp":
            return float(count)
        (sizes,) = super().compute(step, scope, inputs[0].abs(), *inputs[1:])
        return _largest(sizes) * (count if step.node.operator == "ReduceMean" else 1)


class _Lost(Exception):
    """Ends a run."""


class _Searching(RoundedModule):
    """A graph in half precision that stops where a value is lost."""

    def __init__(self, model: onnx.ModelProto, folder: Path, infinite: set[str]) -> None:
        super().__init__(model, folder)
        self.lost: tuple[str, ...] = ()
        self._infinite = infinite
        self._makers: dict[str, str] = {}

    def compute(self, step: Step, scope: Values, *inputs: Any) -> tuple[Any, ...]:
        """Return the results of one node, unless one of them is lost."""
        results = super().compute(step, scope, *inputs)
        node = step.node
        before = [self._makers[name] for name in node.inputs if name in self._makers]
        if node.operator == "Cast":  # inserted; it has the maker of its operand
            self._makers.update(dict.fromkeys(node.outputs, before[0] if before else ""))
        else:
            self._makers.update(dict.fromkeys(node.outputs, first_result(node)))
        bad = not all(bool(value.isfinite().all()) for value in _floats(results))
        if bad and not self._infinite.intersection((first_result(node), *before)):
            self.lost = tuple(dict.fromkeys((*before, first_result(node))))
            raise _Lost
        return results


def _floats(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            yield value


def _largest(value: torch.Tensor) -> float:
    peak = max(map(abs, map(float, value.aminmax())))
    if peak < INFINITE:
        return peak
    sizes = value.abs()
    return float(torch.where(sizes < INFINITE, sizes, 0.0).max())


def _rms(value: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(value)) / math.sqrt(max(value.numel(), 1))


def _operations(node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> int:
    named = (*zip(node.inputs, inputs, strict=False), *zip(node.outputs, results, strict=False))
    shapes = {name: tuple(value.shape) for name, value in named if name and isinstance(value, torch.Tensor)}
    proto = onnx.helper.make_node(node.operator, node.inputs, node.outputs, **_plain(node.attributes))
    return onnx_costs.operations_of(proto, shapes) or 0


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, (int, float, str)) or (isinstance(value, tuple) and value)
    }
