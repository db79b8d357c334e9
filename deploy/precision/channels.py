"""Groups of channels of a graph that can be scaled together without changing what the graph computes.

Between layers with weights, most operators are homogeneous: scaling a channel before them scales it after them. So a
channel can be multiplied by a positive number where it is made, if the weights that read it are divided by the same
number. A power of two changes no bit of any mantissa. Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721)
uses the same freedom between pairs of convolutions; here it goes through additions, normalizations, attention and
reshapes, since every value is followed position by position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from deploy.core.runner import Feeds
from deploy.onnx_graph.graph import OnnxModule, Step
from deploy.onnx_graph.node import OnnxNode, Values
from deploy.precision.groups import FIXED, ZERO, Groups, Peaks, Sets, compact
from deploy.precision.ranges import first_result
from deploy.support import onnx_file
from exporters.half import MOVES

MOST_CHANNELS = 1 << 16
"""Most channels of a weight that are told apart."""

HOMOGENEOUS = frozenset(("Relu", "LeakyRelu", "PRelu", "Abs", "Neg"))
POOLS = frozenset(("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample"))
REDUCTIONS = frozenset(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"))
NORMS = frozenset(("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"))
SHAPES = frozenset(("Shape", "Size"))

Channel = tuple[str, int]
"""A node, by its first result, and one of the channels that its weights make."""

Reading = tuple[str, int]
"""A node, by its first result, and the index of an input that is a weight."""


@dataclass(slots=True)
class Channels:
    """The groups of a graph.

    Attributes:
        members: the channels of each group that can be scaled.
        peaks: largest magnitude of the values of a group.
        reads: largest magnitude of the weights that read a group.
        edits: for each reading of a weight, what multiplies (+1) and divides (-1) it: the group of each element,
            broadcast.
    """

    members: dict[int, list[Channel]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    reads: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    edits: dict[Reading, list[tuple[Groups, int]]] = field(default_factory=dict)

    def exponents(self, reading: Reading, chosen: Mapping[int, int]) -> torch.Tensor:
        """Return the power of two by which each element of a weight is multiplied, broadcast; int64."""
        table = torch.zeros(max(chosen, default=0) + 2, dtype=torch.int64)
        for group, exponent in chosen.items():
            table[group] = exponent
        edits = [sign * table[groups.clamp(max=len(table) - 1)] for groups, sign in self.edits[reading]]
        return sum(edits, torch.zeros((), dtype=torch.int64))


def channels(path: Path, inputs: Sequence[Feeds]) -> Channels:
    """Run a float32 graph, which `exporters.half.prepared` made, and return its groups of channels.

    Raises:
        ModelError: an operator has no evaluation in PyTorch.
    """
    module = _Followed(onnx_file.load(path), path.parent)
    for feeds in inputs:
        module.follow(feeds)
    return module.found()


class _Followed(OnnxModule):
    """A graph that follows the groups of all positions of its values."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        super().__init__(model, folder)
        self._sets = Sets()
        self._groups: dict[str, Groups] = {}
        self._first: dict[Channel, int] = {}
        self._peaks = Peaks()
        self._reads = Peaks()
        self._edits: dict[Reading, list[tuple[Groups, int]]] = {}
        self._weights = {name: value.detach() for name, value in self.stored().items() if value.is_floating_point()}

    def follow(self, feeds: Feeds) -> None:
        """Run once."""
        self._groups.clear()
        with torch.inference_mode():
            self.run({name: torch.from_numpy(np.array(feeds[name], order="C")) for name in self.inputs})
        for name in self.outputs:
            self._fix(name)

    def found(self) -> Channels:
        """Return what all runs found."""
        result = Channels()
        for channel, group in self._first.items():
            root = self._sets.root(group)
            if root != FIXED:
                result.members[root].append(channel)
        for seen, peaks in ((self._peaks, result.peaks), (self._reads, result.reads)):
            for group, peak in enumerate(seen.sizes.tolist()):
                root = self._sets.root(group)
                peaks[root] = max(peaks[root], peak)
        roots = self._sets.roots()
        for reading, edits in self._edits.items():
            result.edits[reading] = [(roots[groups], sign) for groups, sign in edits]
        return result

    def compute(self, step: Step, scope: Values, *inputs: Any) -> tuple[Any, ...]:
        """Return the results of one node, and follow the groups through it."""
        results = super().compute(step, scope, *inputs)
        for name in [name for name in self._groups if name not in scope]:
            del self._groups[name]
        node = step.node
        if step.scoped:
            for name in list(self._groups):
                self._fix(name)
            return results
        for name, value, groups in zip(node.outputs, results, self._follow(step, scope, inputs, results), strict=False):
            if groups is None or not name:
                continue
            if groups.shape != value.shape:
                self._sets.join(groups, None)
                continue
            self._groups[name] = groups
            self._peaks.see(groups, value)
        return results

    def _follow(self, step: Step, scope: Values, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        node = step.node
        known = [name for name in node.inputs if name in self._groups]
        makes = node.operator in ("Conv", "ConvTranspose", "Gemm", "MatMul", *NORMS)
        if node.domain or node.operator in SHAPES or not (known or makes):
            if node.operator not in SHAPES:
                self._fix(*known)
            return [None]
        if node.operator in MOVES or node.operator in ("Concat", "Pad"):
            return self._moved(step, scope, inputs, results)
        rule = _RULES.get(node.operator)
        if rule is None:
            self._fix(*known)
            return [None]
        return rule(self, node, inputs, results)

    # What operators do

    def _same(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        self._fix(*node.inputs[1:])
        return [self._groups.get(node.inputs[0])]

    def _clipped(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        low, high = (*inputs[1:], None, None)[:2]
        if high is None and isinstance(low, torch.Tensor) and node.inputs[1] in self._weights and float(low) == 0.0:
            return self._same(node, inputs, results)
        self._fix(*node.inputs)
        return [None]

    def _moved(self, step: Step, scope: Values, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        """Move the groups as the node moves the values."""
        node, operands = step.node, list(inputs)
        count = len(inputs) if node.operator == "Concat" else 1
        self._fix(*node.inputs[count:])
        for index in range(count):
            groups = self._groups.get(node.inputs[index])
            operands[index] = torch.zeros_like(inputs[index], dtype=torch.int64) if groups is None else groups
        if node.operator == "Pad":
            filled = bool(inputs[2] if len(inputs) > 2 and inputs[2] is not None else node.get("value", 0.0))
            if node.get("mode", "constant") == "constant" and not filled:
                operands = [*[*operands, None][:2], torch.tensor(ZERO), *operands[3:]]
            elif filled:
                self._fix(*node.inputs)
                return [None]
        moved = super().compute(step, scope, *operands)
        return [
            compact(item) if isinstance(item, torch.Tensor) and item.dtype is torch.int64 else None for item in moved
        ]

    def _pooled(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        groups, shape = self._groups[node.inputs[0]], results[0].shape
        if shape[:2] != groups.shape[:2] or node.get("extrapolation_value", 0.0):
            self._fix(node.inputs[0])
            return [None]
        axes = range(2, groups.dim())
        return [self._along(groups, axes).reshape(*shape[:2], *(1 for _ in axes)).expand(shape)]

    def _reduced(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        groups = self._groups.get(node.inputs[0])
        given = inputs[1].tolist() if len(inputs) > 1 and inputs[1] is not None else node.get("axes")
        if groups is None or (not given and node.get("noop_with_empty_axes", 0)):
            return [groups]
        axes = sorted({int(axis) % groups.dim() for axis in given or range(groups.dim())})
        return [self._along(groups, axes).reshape(results[0].shape)]

    def _added(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        fixed = torch.tensor(FIXED)
        whole: Groups | None = None
        for name in node.inputs:
            if name not in self._weights:
                part = self._groups.get(name, fixed).expand(results[0].shape)
                if whole is not None:
                    self._sets.join(whole, part)
                whole = part if whole is None else torch.maximum(whole, part)
        assert whole is not None
        for index, name in enumerate(node.inputs):
            if name in self._weights:
                self._edit(node, index, self._of_elements(whole, self._weights[name].shape), 1)
        return [whole]

    def _multiplied(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        shape, names = results[0].shape, node.inputs
        constant = next((index for index in (1, 0) if names[index] in self._weights), None)
        if constant is not None:
            name, groups = names[constant], self._groups[names[1 - constant]]
            weight = self._weights[name]
            if node.operator == "Div" and constant == 0:
                self._fix(*names)
                return [None]
            if weight.numel() == 1 or weight.numel() > MOST_CHANNELS:
                return [groups.expand(shape)]
            read = self._of_elements(groups.expand(shape), weight.shape)
            made = self._fresh(node, weight.numel()).reshape(weight.shape)
            sign = 1 if node.operator == "Mul" else -1
            self._edit(node, constant, made, sign)
            self._edit(node, constant, read, -sign)
            return [made.expand(shape)]
        moving = [self._groups[name] for name in names if name in self._groups]
        if len(moving) > 1 or (node.operator == "Div" and names[0] not in self._groups):
            self._fix(*names)
            return [None]
        return [moving[0].expand(shape)]

    def _batch_normalized(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        names = node.inputs
        if not all(name in self._weights for name in names[1:]) or len(node.outputs) > 1:
            self._fix(*names)
            return [None]
        read = self._channel(names[0], inputs[0], 1)
        made = self._fresh(node, inputs[1].numel())
        self._edit(node, 1, made, 1)
        self._edit(node, 1, read, -1)
        self._edit(node, 2, made, 1)
        self._edit(node, 3, read, 1)
        return [_on_axis(made, 1, results[0])]

    def _normalized(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        """Normalizations make channels by their scales; what they read cannot be scaled."""
        self._fix(node.inputs[0])
        parts, value = {index: name for index, name in enumerate(node.inputs) if index and name}, results[0]
        axis = value.dim() - 1 if node.operator in ("LayerNormalization", "RMSNormalization") else 1
        sizes = {tuple(self._weights[name].shape) if name in self._weights else () for name in parts.values()}
        if sizes != {(value.shape[axis],)} or node.get("axis", -1) not in (-1, value.dim() - 1):
            return [None]
        made = self._fresh(node, value.shape[axis])
        for index in parts:
            self._edit(node, index, made, 1)
        return [_on_axis(made, axis, value)]

    def _convolved(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        names, transposed = node.inputs, node.operator == "ConvTranspose"
        if not all(name in self._weights for name in names[1:] if name):
            self._fix(*names)
            return [None]
        count, shape = node.get("group", 1), inputs[1].shape
        read = self._channel(names[0], inputs[0], 1)
        made = self._fresh(node, results[0].shape[1])
        ones = [1] * (len(shape) - 2)
        inner, outer = (made, read) if transposed else (read, made)
        by_group = inner.reshape(1, -1, *ones)
        if count > 1:
            by_group = inner.reshape(count, 1, -1).expand(-1, shape[0] // count, -1).reshape(*shape[:2], *ones)
        along = outer.reshape(-1, 1, *ones)
        self._edit(node, 1, by_group if transposed else along, 1)
        self._edit(node, 1, along if transposed else by_group, -1)
        if len(names) > 2 and names[2]:
            self._edit(node, 2, made, 1)
        return [_on_axis(made, 1, results[0])]

    def _gemm(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        names = node.inputs
        if not all(name in self._weights for name in names[1:] if name):
            self._fix(*names)
            return [None]
        read = self._channel(names[0], inputs[0], 0 if node.get("transA", 0) else 1)
        made = self._fresh(node, results[0].shape[1])
        whole = _on_axis(made, 1, results[0])
        turned = bool(node.get("transB", 0))
        self._edit(node, 1, made.reshape(-1, 1) if turned else made, 1)
        self._edit(node, 1, read if turned else read.reshape(-1, 1), -1)
        if len(names) > 2 and names[2]:
            self._edit(node, 2, self._of_elements(whole, inputs[2].shape), 1)
        return [whole]

    def _matmul(self, node: OnnxNode, inputs: Sequence[Any], results: Sequence[Any]) -> list[Groups | None]:
        (left, right), value = node.inputs, results[0]
        if right in self._weights and inputs[1].dim() == 2 and left not in self._weights:
            read = self._channel(left, inputs[0], inputs[0].dim() - 1)
            made = self._fresh(node, value.shape[-1])
            self._edit(node, 1, made, 1)
            self._edit(node, 1, read.reshape(-1, 1), -1)
            return [_on_axis(made, value.dim() - 1, value)]
        groups, other = self._groups.get(right), self._groups.get(left)
        if value.dim() < 2 or left in self._weights or right in self._weights or (groups is None) == (other is None):
            self._fix(left, right)
            return [None]
        if groups is not None:  # a weighted sum of rows
            return [self._along(groups, [groups.dim() - 2]).expand(value.shape)]
        assert other is not None
        return [self._along(other, [other.dim() - 1]).expand(value.shape)]

    # Groups of positions

    def _fix(self, *names: str) -> None:
        for name in names:
            if name in self._groups:
                self._sets.join(self._groups.pop(name), None)

    def _fresh(self, node: OnnxNode, count: int) -> Groups:
        """Return a group for each channel that a node makes, the same ones in every run."""
        key = first_result(node)
        for index in range(count if (key, 0) not in self._first else 0):
            self._first[key, index] = self._sets.add()
        first = self._first[key, 0]
        return torch.arange(first, first + count)

    def _channel(self, name: str, value: torch.Tensor, axis: int) -> Groups:
        """Return one group for each position along an axis."""
        groups = self._groups.get(name)
        if groups is None:
            return torch.zeros(value.shape[axis], dtype=torch.int64)
        return self._along(groups, [index for index in range(groups.dim()) if index != axis]).reshape(-1)

    def _along(self, groups: Groups, axes: Sequence[int]) -> Groups:
        """Join the groups of all positions along axes, and return them with these axes of size 1."""
        if not axes:
            return groups
        top = groups.amax(tuple(axes), keepdim=True)
        self._sets.join(top, groups)
        return top

    def _of_elements(self, groups: Groups, shape: Sequence[int]) -> Groups:
        """Return a group for each element of a tensor that is broadcast to the groups' shape."""
        padded = [1] * (groups.dim() - len(shape)) + list(shape)
        axes = [axis for axis, size in enumerate(padded) if size != groups.shape[axis]]
        return self._along(groups, axes).reshape(tuple(shape))

    def _edit(self, node: OnnxNode, index: int, groups: Groups, sign: int) -> None:
        """Note that the weight at an input of a node changes with groups."""
        known = self._edits.setdefault((first_result(node), index), [])
        for before, other in known:
            if other == sign and before.shape == groups.shape:
                self._sets.join(before, groups)
                return
        known.append((groups.clone(), sign))
        if sign < 0:
            weight = self._weights[node.inputs[index]]
            self._reads.see(groups.expand(weight.shape), weight)


def _on_axis(groups: Groups, axis: int, value: torch.Tensor) -> Groups:
    """Return the groups of a value that depend on the position along one axis."""
    return groups.reshape(-1, *(1 for _ in range(value.dim() - axis - 1))).expand(value.shape)


_RULES: dict[str, Callable[[_Followed, OnnxNode, Sequence[Any], Sequence[Any]], list[Groups | None]]] = {
    **dict.fromkeys(HOMOGENEOUS, _Followed._same),
    **dict.fromkeys(POOLS, _Followed._pooled),
    **dict.fromkeys(REDUCTIONS, _Followed._reduced),
    **dict.fromkeys(NORMS, _Followed._normalized),
    **dict.fromkeys(("Add", "Sub", "Sum"), _Followed._added),
    **dict.fromkeys(("Mul", "Div"), _Followed._multiplied),
    "Clip": _Followed._clipped,
    "BatchNormalization": _Followed._batch_normalized,
    "Conv": _Followed._convolved,
    "ConvTranspose": _Followed._convolved,
    "Gemm": _Followed._gemm,
    "MatMul": _Followed._matmul,
}
