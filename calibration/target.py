"""INT8 targets: what a target declares about itself, and quantization for one of them.

Each plug-in of ``calibration.targets`` is a module that defines ``TARGET``, a `Target`, and imports ONNX and ONNX
Runtime only when it quantizes. Third-party targets register through an entry point in the group
``calibration.targets`` that loads such a module.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from calibration.grid import Grid, Range
from deploy.core import registry
from deploy.core.cpu import CPUS
from deploy.core.environment import cpu_features
from deploy.core.errors import UnknownNameError

if TYPE_CHECKING:
    import onnx

    from calibration.adjustment import Adjustments
    from calibration.table import CalibrationTable

PACKAGE = "calibration.targets"

MIN_OPSET = 19
"""First ONNX opset whose QuantizeLinear and DequantizeLinear take FP16 scales and FP8 values."""

Quantize = Callable[["onnx.ModelProto", Mapping[str, Range], Collection[str], Collection[str]], "onnx.ModelProto"]
"""From a prepared graph, the range of every float activation, names of nodes to keep in float and CPU features to the
quantized graph, in which tensors keep their names. It may be the graph that was given, changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QdqRules:
    """Where Q/DQ pairs are placed and which types they have.

    Attributes:
        grid: grid of the activations: asymmetric is uint8, symmetric is int8 with zero-point 0. Weights are always
            symmetric int8 with a scale for each output channel.
        operators: operator types whose inputs are quantized.
        outputs: quantize the outputs of these operators too.
        bias: quantize biases to int32; False keeps them in float.
        reduce_range: use seven bits for weights, for CPUs whose 16-bit sums of products overflow.
        dedicated_pairs: give every consumer of a tensor a Q/DQ pair of its own.
    """

    grid: Grid
    operators: tuple[str, ...]
    outputs: bool = True
    bias: bool = True
    reduce_range: bool = False
    dedicated_pairs: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A target's declaration.

    Attributes:
        name: name on the command line, ``openvino``.
        title: display name, ``OpenVINO``.
        grid: grid of the activations; decides which range `quantize` receives.
        half: the operators that are not quantized may run in float16 (``deploy quantize --fp16``).
        depthwise_channels: the runtime runs a depthwise convolution in INT8 if its input has a scale for each channel.
        floating: values are FP8 in place of INT8, and ranges are the largest values that were seen.
        by_cpu: weights take seven bits on CPUs that saturate, see `deploy.core.cpu`.
        quantize: writes Q/DQ pairs into a graph.
    """

    name: str
    title: str
    grid: Grid
    quantize: Quantize
    half: bool = False
    depthwise_channels: bool = False
    floating: bool = False
    by_cpu: bool = False

    @property
    def precision(self) -> str:
        """The precision of its files, ``int8`` or ``fp8``."""
        return "fp8" if self.floating else "int8"


@cache
def targets() -> Mapping[str, Target]:
    """Return all declared targets by name, sorted."""
    declared = [registry.declaration(PACKAGE, plugin, Target, "target") for plugin in registry.names(PACKAGE)]
    return {target.name: target for target in sorted(declared, key=lambda target: target.name)}


def find_target(name: str) -> Target:
    """Return a target by its name."""
    known = targets()
    if name not in known:
        raise UnknownNameError("target", name, known, f"known: {', '.join(known)}")
    return known[name]


def quantize(
    model: onnx.ModelProto,
    table: CalibrationTable,
    target: str,
    *,
    keep_float: Collection[str] = (),
    adjustments: Adjustments | None = None,
    cpu: str | None = None,
    in_place: bool = False,
) -> onnx.ModelProto:
    """Return a quantized copy of a prepared float32 graph; its tensors keep their names.

    Args:
        model: a graph from `calibration.prepare`.
        table: the ranges.
        target: ``onnxruntime``, ``openvino``, ``tensorrt`` or a third-party one.
        keep_float: names of nodes.
        adjustments: new parameters of quantized layers, from `calibration.tune`.
        cpu: kind of CPU that the graph is for, see `deploy.core.cpu.CPUS`; default: this machine's.
        in_place: change the graph itself, which saves a copy of the weights; it is of no use afterwards.
    """
    declared = find_target(target)
    model = model if in_place else copy.deepcopy(model)
    if adjustments:
        from calibration.adjustment import apply  # imports ONNX

        apply(model, {name: item for name, item in adjustments.items() if name not in keep_float})
    ranges = table.largest() if declared.floating else table.ranges(declared.grid)
    quantized = declared.quantize(model, ranges, frozenset(keep_float), cpu_features() if cpu is None else CPUS[cpu])
    if declared.depthwise_channels:
        from calibration.depthwise import channel_scales  # imports ONNX

        channel_scales(quantized, table, declared.grid)
    return quantized
