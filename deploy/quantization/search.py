"""Which layers stay in float: the most sensitive first, until the quality bounds are met."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import onnx

import calibration
from calibration.adjustment import Adjustments
from calibration.graph import weighted_layers
from calibration.sensitivity import FloatLayerPlan, choose_float_layers
from calibration.table import CalibrationTable
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import Progress
from deploy.quantization.cache import batch_of
from deploy.quantization.data import CalibrationSamples
from deploy.quantization.evidence import Evidence, Judge, QualityBounds, format_sqnr
from deploy.quantization.source import Source
from deploy.support import onnx_file
from exporters.half import to_half

RANKING_SAMPLES = 16
"""Number of samples on which layers are ranked and compared one by one; one batch if the graph fixes a larger one."""


@dataclass(kw_only=True, slots=True)
class Quantizer:
    """Writes quantized versions of a prepared graph for one target, each with other layers in float.

    With ``fp16``, layers that are not quantized compute in FP16; inputs and outputs stay float32.

    Attributes:
        prepared: the prepared graph, from which every version is made anew.
        graph: the same without its external data.
        path: the file to write.
        adjustments: new parameters of quantized layers.
    """

    source: Source
    prepared: Path
    graph: onnx.ModelProto
    table: CalibrationTable
    target: str
    samples: CalibrationSamples
    path: Path
    fp16: bool
    adjustments: Adjustments = field(default_factory=dict)
    _written: frozenset[str] | None = None

    def write(self, keep_float: Collection[str]) -> Path:
        """Write the quantized graph with the named nodes in float, unless it is what was written last."""
        if self._written != frozenset(keep_float):
            self._written = None
            self._save(keep_float, self.path)
            if self.fp16:
                to_half(self.path, self.path)
            self._written = frozenset(keep_float)
        return self.path

    def adjust(self, adjustments: Adjustments) -> None:
        """Give the versions that are written from now on other adjustments."""
        self.adjustments, self._written = adjustments, None

    def write_float32(self, keep_float: Collection[str], folder: Path) -> Path:
        """Write the same graph with float32 layers, if need be to a folder, and return the file."""
        if not self.fp16:
            return self.write(keep_float)
        self._save(keep_float, folder / self.path.name)
        return folder / self.path.name

    def _save(self, keep_float: Collection[str], path: Path) -> None:
        graph = onnx.load(str(self.prepared))
        quantized = calibration.quantize(
            graph, self.table, self.target, keep_float=keep_float, adjustments=self.adjustments, in_place=True
        )
        onnx_file.save(quantized, path)

    def judge(self, runner: IsolatedRunner, samples: CalibrationSamples) -> Judge:
        """Return a judge of quantized graphs on ``samples``."""
        size, fixed = batch_of(self.graph)
        return Judge(runner, self.source.path, samples, size=size, fixed=fixed, target=self.target)


def search(
    quantizer: Quantizer, runner: IsolatedRunner, bounds: QualityBounds, progress: Progress
) -> FloatLayerPlan[Evidence]:
    """Quantize every layer; while a bound is not met, keep one more layer in float. One layer stays quantized."""
    with progress.stage("evaluating"):
        judge = quantizer.judge(runner, quantizer.samples)
        start = judge.measure(quantizer.write(()), progress)
    violations = bounds.violations(start)
    if not bounds.given or not violations:
        return FloatLayerPlan(start=start, steps=(), sufficient=True)
    progress.note(f"{'; '.join(violations)}: searching for layers to keep in float")
    order = _ranked(quantizer, runner, progress)
    with progress.stage("keeping layers in float"):

        def measure(keep: frozenset[str]) -> Evidence:
            return judge.measure(quantizer.write(keep), progress) if keep else start

        # without the last layer nothing would be INT8
        plan = choose_float_layers(order[:-1], measure, lambda evidence: not bounds.violations(evidence))
    for step in plan.steps:
        drop = "" if step.result.drop is None else f", top-1 drop {step.result.drop:.2f} points"
        progress.note(f"{step.layer} kept in float: SQNR {format_sqnr(step.result.sqnr_db)}{drop}")
    return plan


def _ranked(quantizer: Quantizer, runner: IsolatedRunner, progress: Progress) -> list[str]:
    """Return the layers, the most sensitive first, by the SQNR with only that layer quantized."""
    names = weighted_layers(quantizer.graph)
    nodes = {node.name for node in quantizer.graph.graph.node}
    with progress.stage("ranking layers"):
        size, fixed = batch_of(quantizer.graph)
        samples = quantizer.samples.head(max(RANKING_SAMPLES, size) if fixed else RANKING_SAMPLES)
        judge = quantizer.judge(runner, samples)
        done = 0

        def alone(name: str) -> float:
            nonlocal done
            done += 1
            progress.advance(done, len(names), f"ranking layers: {name}")
            sqnr = judge.measure(quantizer.write(nodes - {name}), progress).sqnr_db
            return float("inf") if sqnr is None else sqnr

        return sorted(names, key=alone)
