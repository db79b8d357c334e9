"""One quantization: writing the graph, finding what must stay in float, publishing it with its evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

import calibration
from calibration.layers import LayerNoise
from calibration.sensitivity import FloatLayerPlan, layers, rank, relax
from calibration.table import CalibrationTable
from deploy.core.artifact import Artifact, Payload
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import Progress
from deploy.core.store import REJECTED, Transaction
from deploy.quantization.cache import batch_of
from deploy.quantization.data import CalibrationData, CalibrationSamples
from deploy.quantization.evidence import Evidence, Judge, QualityBounds, decibels
from deploy.quantization.source import Source
from deploy.quantization.worker import GraphChild
from exporters.half import to_half
from exporters.limits import SINGLE_FILE_LIMIT

FORMAT = "onnx"
PRECISIONS = {False: "int8", True: "int8-fp16"}
"""By whether what is not rounded runs in half."""

RANKED_ON = 16
"""Samples on which layers are ranked and compared one by one."""

RECORDED = 10
"""Layers that the manifest names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is quantized, with what, for what, and where it is written.

    Attributes:
        half: what is not in eight bits computes in float16; inputs and outputs stay float32.
    """

    source: Source
    graph: onnx.ModelProto
    table: CalibrationTable
    target: str
    data: CalibrationData
    transaction: Transaction
    half: bool = False

    @property
    def path(self) -> Path:
        """Where the quantized graph is written before it is published."""
        return self.transaction.path(f"{self.source.slug}.{PRECISIONS[self.half]}-{self.target}.onnx")

    def quantized(self, keep_float: Collection[str]) -> onnx.ModelProto:
        """The quantized graph with some nodes left in float."""
        return calibration.quantize(self.graph, self.table, self.target, keep_float=keep_float)

    def write(self, keep_float: Collection[str]) -> Path:
        """Write it."""
        onnx.save(self.quantized(keep_float), str(self.path))
        if self.half:
            to_half(self.path, self.path, SINGLE_FILE_LIMIT)
        return self.path

    def judge(self, runner: IsolatedRunner, samples: CalibrationSamples) -> Judge:
        """A judge of quantized graphs on ``samples``."""
        size, fixed = batch_of(self.graph)
        return Judge(runner, self.source.path, samples, size=size, whole=fixed, target=self.target)

    def layer_noise(self, keep_float: Collection[str], child: GraphChild) -> list[LayerNoise]:
        """Every layer's noise on the first samples, the worst first."""
        size, fixed = batch_of(self.graph)
        feeds = self.data.evidence.head(max(RANKED_ON, size)).batches(size, whole=fixed)
        return child.layer_noise(self.quantized(keep_float), feeds)

    def publish(
        self, plan: FloatLayerPlan[Evidence], worst: Sequence[LayerNoise], options: Mapping[str, Any]
    ) -> Artifact:
        """Write the graph of the plan with its manifest; one that failed goes to the folder of rejected ones."""
        path = self.write(plan.keep_float)
        evidence = plan.steps[-1].reached if plan.steps else plan.start
        manifest = self.source.derived(
            format=FORMAT,
            precision=PRECISIONS[self.half],
            target=self.target,
            files=(Payload.of(path),),
            options={
                **options,
                "calibration": dict(self.table.key),
                "keep_float": [step.layer for step in plan.steps],
                "plan": [_told(step.layer, step.reached) for step in plan.steps],
            },
            parity={
                "verdict": options["verdict"],
                "kind": PRECISIONS[self.half],
                "reference": "the float graph it was made from",
                "samples": dict(self.data.evidence.summary),
                "apart": self.data.apart,
                **evidence.to_dict(),
                "worst_layers": [asdict(item) for item in worst[:RECORDED]],
            },
        )
        return self.transaction.publish(manifest, REJECTED if options["verdict"] == "fail" else "")


def _told(layer: str, reached: Evidence) -> dict[str, Any]:
    return {"layer": layer, "sqnr_db": reached.sqnr_db, "drop": reached.drop}


def search(job: Job, runner: IsolatedRunner, bounds: QualityBounds, progress: Progress) -> FloatLayerPlan[Evidence]:
    """Quantize every layer; where bounds are given and break, give layers back to float, the most sensitive first.

    Raises:
        BackendError: a runtime refused a graph.
    """
    with progress.stage("judging"):
        judge = job.judge(runner, job.data.evidence)
        start = judge.measure(job.write(()), progress)
    if not bounds.given or bounds.hold(start):
        return FloatLayerPlan(start=start, steps=(), holds=True)
    progress.note(f"{'; '.join(bounds.broken(start))}: looking for layers to keep in float")
    order = _ranked(job, runner, progress)
    with progress.stage("giving layers back to float"):
        judge = job.judge(runner, job.data.evidence)

        def measure(keep: frozenset[str]) -> Evidence:
            return judge.measure(job.write(keep), progress) if keep else start

        plan = relax(order[:-1], measure, bounds.hold)  # with the last one nothing would be left in eight bits
    for step in plan.steps:
        lost = "" if step.reached.drop is None else f", {step.reached.drop:.2f} points lost"
        progress.note(f"{step.layer} in float: {decibels(step.reached.sqnr_db)}{lost}")
    return plan


def _ranked(job: Job, runner: IsolatedRunner, progress: Progress) -> list[str]:
    """Layers, the most sensitive first: each one's Q/DQ alone, on a few samples."""
    names = layers(job.graph)
    every = {node.name for node in job.graph.graph.node}
    with progress.stage("ranking layers"):
        judge = job.judge(runner, job.data.evidence.head(RANKED_ON))
        done = 0

        def alone(name: str) -> float:
            nonlocal done
            done += 1
            progress.advance(done, len(names), f"ranking layers: {name}")
            sqnr = judge.measure(job.write(every - {name}), progress).sqnr_db
            return float("inf") if sqnr is None else sqnr

        return [name for name, _ in rank(names, alone)]
