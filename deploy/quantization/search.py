"""Which layers stay in float: the most sensitive first, until the quality bounds are met."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

import calibration
from calibration.adjustment import Adjustments
from calibration.graph import decoding, last_layers, tail, weighted_layers
from calibration.sensitivity import FloatLayerPlan, choose_float_layers
from calibration.table import CalibrationTable
from deploy.core.errors import BackendError, ModelError
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import Progress
from deploy.quantization.cache import batch_of
from deploy.quantization.data import CalibrationSamples
from deploy.quantization.evidence import Evidence, Judge, QualityBounds, format_sqnr
from deploy.quantization.source import Source
from deploy.support import onnx_file
from exporters.half import largest, to_half

LOST_DB = 20.0
"""SQNR of a channel below which the rounding of the operators behind the last layers is too coarse for it."""

POOR_PART_DB = 10.0
"""SQNR of a channel below which more nodes are tried in float."""

GAIN_DB = 3.0
"""Gain of the worst output or channel for which more nodes stay in float."""

DETECTS = ("detection", "instance-segmentation")
"""Tasks whose outputs are decoded into boxes."""

RANKING_SAMPLES = 16
"""Number of samples on which layers are ranked and compared one by one; one batch if the graph fixes a larger one."""


@dataclass(kw_only=True, slots=True)
class Quantizer:
    """Writes quantized versions of a prepared graph for one target, each with other layers in float.

    With ``fp16``, layers that are not quantized compute in FP16, except for those with values that FP16 cannot hold;
    inputs and outputs stay float32, and so do choices and the decoding around them.

    Attributes:
        prepared: the prepared graph, from which every version is made anew.
        graph: the same without its external data.
        path: the file to write.
        cpu: kind of CPU that the file is for, see `deploy.core.cpu`; None if the target does not depend on it.
        always_float: names of nodes that stay in float in every version.
        adjustments: new parameters of quantized layers.
        beyond_half: nodes of the graph written last that stay in float32, since FP16 cannot hold their values, and how
            large those are; None where a graph cannot be run node by node.
    """

    source: Source
    prepared: Path
    graph: onnx.ModelProto
    table: CalibrationTable
    target: str
    samples: CalibrationSamples
    path: Path
    fp16: bool
    cpu: str | None
    always_float: frozenset[str] = frozenset()
    adjustments: Adjustments = field(default_factory=dict)
    beyond_half: dict[str, str] | None = field(default_factory=dict)
    _written: frozenset[str] | None = None
    _fits: bool | None = None

    def write(self, keep_float: Collection[str]) -> Path:
        """Write the quantized graph with the named nodes in float, unless it is what was written last."""
        names = self.always_float.union(keep_float)
        if self._written != names:
            self._written = None
            self._save(names, self.path)
            if self.fp16:
                self.beyond_half = self._beyond_half()
                decided = {onnx_file.first_result(node) for node in decoding(self.graph)}
                to_half(self.path, self.path, keep=decided.union(self.beyond_half or ()))
            self._written = names
        return self.path

    def _beyond_half(self) -> dict[str, str] | None:
        """Run a few samples through the prepared graph, and through the one that was written if that is too large.

        ONNX Runtime would not show it: on a CPU, it computes a graph in FP16 in float32.
        """
        try:
            if self._fits is None:
                self._fits = not self._overflowing(self.prepared)
            return {} if self._fits else self._overflowing(self.path)
        except (ModelError, BackendError):
            return None

    def _overflowing(self, path: Path) -> dict[str, str]:
        from deploy.precision.ranges import overflowing, ranges  # imports PyTorch

        size, fixed = batch_of(self.graph)
        feeds = self.samples.head(max(RANKING_SAMPLES, size)).batches(size, fixed=fixed)
        return overflowing(ranges(path, feeds), largest("fp16"))

    def adjust(self, adjustments: Adjustments) -> None:
        """Give the versions that are written from now on other adjustments."""
        self.adjustments, self._written = adjustments, None

    def write_float32(self, keep_float: Collection[str], folder: Path) -> Path:
        """Write the same graph with float32 layers, if need be to a folder, and return the file."""
        if not self.fp16:
            return self.write(keep_float)
        self._save(self.always_float.union(keep_float), folder / self.path.name)
        return folder / self.path.name

    def _save(self, keep_float: Collection[str], path: Path) -> None:
        graph = onnx.load(str(self.prepared))
        quantized = calibration.quantize(
            graph,
            self.table,
            self.target,
            keep_float=keep_float,
            adjustments=self.adjustments,
            cpu=self.cpu,
            in_place=True,
        )
        onnx_file.save(quantized, path)

    def judge(self, runner: IsolatedRunner, samples: CalibrationSamples) -> Judge:
        """Return a judge of quantized graphs on ``samples``."""
        size, fixed = batch_of(self.graph)
        return Judge(runner, self.source, samples, size=size, fixed=fixed, target=self.target, cpu=self.cpu)


def keep_mixed_outputs(quantizer: Quantizer, runner: IsolatedRunner, progress: Progress) -> None:
    """Keep in float what loses an output, or a channel of it, by its rounding alone.

    What mixes outputs of different kinds behind the last layers stays in float where a measurement shows that its
    rounding loses a channel. If an output is poor, concatenations and the last layers are tried in float. Of a
    detector, everything behind the last layers and around the choice of proposals stays in float: it decodes boxes and
    scores, and suppresses boxes.
    """
    with progress.stage("measuring the outputs"):
        if quantizer.source.task in DETECTS:
            quantizer.always_float = frozenset(
                [*tail(quantizer.graph), *(node.name for node in decoding(quantizer.graph))]
            )
        else:
            quantizer.always_float = _lost_in_tail(quantizer, runner, progress)
        judge = quantizer.judge(runner, quantizer.samples)
        start = judge.measure(quantizer.write(()), progress)
        for more in _suspects(quantizer):
            if start.worst_part_db >= POOR_PART_DB and not start.weaknesses():
                break
            kept = quantizer.always_float
            quantizer.always_float = kept.union(more)
            tried = judge.measure(quantizer.write(()), progress)
            if _gains(start, tried):
                start = tried
            else:
                quantizer.always_float = kept
    if judge.compared:
        progress.note(f"compared: {', '.join(judge.compared)}, since rounding may change the order of what is chosen")
    if quantizer.always_float:
        names = [node.name for node in quantizer.graph.graph.node if node.name in quantizer.always_float]
        others = f" and {len(names) - 5} more nodes" if len(names) > 5 else ""
        why = "they decode detections" if quantizer.source.task in DETECTS else "rounding loses what an output says"
        progress.note(f"kept in float, since {why}: {', '.join(names[:5])}{others}")


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
    order = [name for name in _ranked(quantizer, runner, progress) if name not in quantizer.always_float]
    with progress.stage("keeping layers in float"):

        def measure(keep: frozenset[str]) -> Evidence:
            return judge.measure(quantizer.write(keep), progress) if keep else start

        # without the last layer nothing would be INT8
        plan = choose_float_layers(
            order[:-1],
            measure,
            lambda evidence: not bounds.violations(evidence),
            bounds.shortfall,
            _neighbors(quantizer, order[:-1]),
        )
    for step in plan.steps:
        drop = "" if step.result.drop is None else f", {step.result.metric} drop {step.result.drop:.2f} points"
        progress.note(f"{step.layer} kept in float: SQNR {format_sqnr(step.result.sqnr_db)}{drop}")
    return plan


def _neighbors(quantizer: Quantizer, order: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of layers that follow each other, the pair with the most sensitive layer first."""
    ranks = {name: place for place, name in enumerate(order)}
    layers = [name for name in weighted_layers(quantizer.graph) if name in ranks]
    return sorted(itertools.pairwise(layers), key=lambda pair: min(ranks[name] for name in pair))


def _suspects(quantizer: Quantizer) -> list[frozenset[str]]:
    """Return nodes whose rounding can lose an output where each layer alone does not.

    They are the concatenations, whose inputs OpenVINO reads in the scale of the first one; and the last layers, whose
    results can mix outputs, if there are others.
    """
    graph, last = quantizer.graph, last_layers(quantizer.graph)
    joined = frozenset(node.name for node in graph.graph.node if node.op_type == "Concat")
    mixed = frozenset([*last, *tail(graph)]) if len(last) < len(weighted_layers(graph)) else frozenset()
    return [names for names in (joined, mixed) if names]


def _gains(before: Evidence, after: Evidence) -> bool:
    """Return whether the worst output or its worst channel gains `GAIN_DB`, and neither loses as much."""
    pairs = [(before.sqnr_db, after.sqnr_db), (before.worst_part_db, after.worst_part_db)]
    gains = [new - old for old, new in pairs if old is not None and new is not None and old != new]
    return any(gain >= GAIN_DB for gain in gains) and all(gain > -GAIN_DB for gain in gains)


def _lost_in_tail(quantizer: Quantizer, runner: IsolatedRunner, progress: Progress) -> frozenset[str]:
    """Return the nodes behind the last layers, if rounding them alone loses a channel of an output; else none."""
    behind = tail(quantizer.graph)
    nodes = {node.name for node in quantizer.graph.graph.node}
    if not behind:
        return frozenset()
    path = quantizer.write(nodes.difference(behind))
    if not any(node.op_type == "QuantizeLinear" for node in onnx.load(path, load_external_data=False).graph.node):
        return frozenset()  # the target does not round them
    judge = quantizer.judge(runner, _few(quantizer))
    return frozenset(behind) if judge.measure(path, progress).worst_part_db < LOST_DB else frozenset()


def _few(quantizer: Quantizer) -> CalibrationSamples:
    size, fixed = batch_of(quantizer.graph)
    return quantizer.samples.unscored().head(max(RANKING_SAMPLES, size) if fixed else RANKING_SAMPLES)


def _ranked(quantizer: Quantizer, runner: IsolatedRunner, progress: Progress) -> list[str]:
    """Return the layers, the most sensitive first, by the SQNR with only that layer quantized."""
    names = weighted_layers(quantizer.graph)
    nodes = {node.name for node in quantizer.graph.graph.node}
    with progress.stage("ranking layers"):
        judge = quantizer.judge(runner, _few(quantizer))
        done = 0

        def alone(name: str) -> float:
            nonlocal done
            done += 1
            progress.advance(done, len(names), f"ranking layers: {name}")
            sqnr = judge.measure(quantizer.write(nodes - {name}), progress).sqnr_db
            return float("inf") if sqnr is None else sqnr

        return sorted(names, key=alone)
