"""``deploy quantize``: from a proven float export to an INT8 graph that is right for its target."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import calibration
from calibration.layers import LayerNoise
from calibration.sensitivity import FloatLayerPlan
from calibration.table import STATISTICS, CalibrationTable
from calibration.target import find_target
from deploy.core import registry
from deploy.core.artifact import Artifact
from deploy.core.errors import UnknownNameError, UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.quantization.cache import calibrated
from deploy.quantization.child import GraphChild
from deploy.quantization.data import CalibrationData, open_data
from deploy.quantization.defaults import METHOD, SAMPLES
from deploy.quantization.evidence import Evidence, QualityBounds
from deploy.quantization.job import Job, search
from deploy.quantization.source import Source, open_source

HALF_OPSET = 19
"""The first whose Q/DQ takes scales in half precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeReport:
    """What `quantize` made.

    Attributes:
        artifact: the INT8 file with its manifest; one that breaks its bounds lies in the folder ``rejected``.
        verdict: ``pass`` or ``fail`` where bounds were given, else ``measured``; ``fail`` on values not finite.
        evidence: of the file as it is.
        plan: layers given back to float, and what each bought; None where no bound asked for it.
        worst: layers with the most noise, the worst first.
        table: of the calibration; ``reused`` if it was there before.
        data: what was calibrated with and judged on.
    """

    artifact: Artifact
    verdict: str
    reasons: tuple[str, ...]
    evidence: Evidence
    plan: FloatLayerPlan[Evidence] | None
    worst: tuple[LayerNoise, ...]
    table: CalibrationTable
    reused: bool
    data: CalibrationData
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            "file": str(self.artifact.path),
            "bytes": sum(item.bytes for item in manifest.files),
            "model": manifest.model,
            "target": manifest.target,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "evidence": self.evidence.to_dict(),
            "options": dict(manifest.options),
            "parent": manifest.parent,
            "worst_layers": [asdict(item) for item in self.worst],
            "calibration": {**self.data.calibration.summary, "reused": self.reused, "moved": self.table.moved},
            "judged_on": {**self.data.evidence.summary, "apart": self.data.apart},
            "weights": asdict(manifest.weights),
            "seconds": round(self.seconds, 3),
        }


def quantize(
    model: str | Path | None = None,
    *,
    calib: str | Path,
    target: str = "onnxruntime",
    method: str = METHOD,
    samples: int = SAMPLES,
    max_drop: float | None = None,
    min_sqnr: float | None = None,
    half: bool = False,
    preprocess: Sequence[str] = (),
    skip_bad: bool = False,
    artifacts: Path | None = None,
    progress: Progress = SILENT,
) -> QuantizeReport:
    """Calibrate a float export and write an INT8 graph for one target.

    Args:
        model: a name (its newest float32 export, which is made where there is none) or an ONNX file; None takes the
            newest float32 export.
        calib: a folder of images, a bundled data set, ``.npy`` or ``.npz``.
        target: ``onnxruntime``, ``openvino`` or ``tensorrt``.
        method: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        samples: to calibrate with, at the most.
        max_drop: points of top-1 that may be lost; layers go back to float until that holds. Needs labels.
        min_sqnr: dB that the worst output must reach; likewise.
        half: what is not in eight bits computes in float16; for ``tensorrt`` only, whose graph says every precision.
        preprocess: ``key=value`` changes to the model's preprocessing.
        skip_bad: leave unreadable images out.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: told what happens.

    Returns:
        The report; a verdict ``fail`` is for the caller to act on.

    Raises:
        DeployError: see `deploy.core.errors`; nothing is left behind but a complete calibration table.
    """
    began = time.perf_counter()
    declared = find_target(target)
    methods = registry.names(STATISTICS)
    if method not in methods:
        raise UnknownNameError("calibration method", method, methods, f"known: {', '.join(methods)}")
    if samples < 2:
        raise UsageError("at least two samples are needed to calibrate with.")
    if half and not declared.half:
        raise UsageError(
            f"--fp16: {declared.title} runs no faster in float16.", "omit --fp16, or use --target tensorrt"
        )
    store = Store(artifacts or default_root())
    source = open_source(model, store, preprocess, progress)
    bounds = QualityBounds(min_sqnr=min_sqnr, max_drop=max_drop)
    with GraphChild() as child, IsolatedRunner("onnxruntime") as runner:
        with progress.stage("reading the data"):
            data = _data(source, str(calib), samples, skip_bad, progress)
        if max_drop is not None and data.evidence.labels is None:
            raise UsageError(
                "--max-drop needs labels that are classes of the model.", "or bound the noise: --min-sqnr 20"
            )
        with progress.stage("preparing the graph"):
            graph = child.prepare(source.path)
        if half and calibration.opset(graph) < HALF_OPSET:
            raise UsageError(
                f"--fp16 needs opset {HALF_OPSET}, and {source.path} has {calibration.opset(graph)}.",
                "deploy export --opset 20",
            )
        table, reused = calibrated(source, graph, data.calibration, method, child, store, progress)
        with store.transaction(source.slug) as transaction:
            job = Job(
                source=source, graph=graph, table=table, target=target, data=data, transaction=transaction, half=half
            )
            plan = search(job, runner, bounds, progress)
            evidence = plan.result
            with progress.stage("layer by layer"):
                worst = tuple(job.layer_noise(plan.keep_float, child))
            broken = tuple(bounds.broken(evidence))
            verdict = "fail" if broken else "pass" if bounds.given else "measured"
            artifact = job.publish(plan, worst, {"method": method, "bounds": asdict(bounds), "verdict": verdict})
    return QuantizeReport(
        artifact=artifact,
        verdict=verdict,
        reasons=broken,
        evidence=evidence,
        plan=plan if bounds.given else None,
        worst=worst,
        table=table,
        reused=reused,
        data=data,
        seconds=time.perf_counter() - began,
    )


def _data(source: Source, calib: str, samples: int, skip_bad: bool, progress: Progress) -> CalibrationData:
    data = open_data(
        calib,
        source.inputs,
        source.preprocessing,
        source.labels,
        source.model,
        samples=samples,
        skip_bad=skip_bad,
        progress=progress,
    )
    if data.calibration.count < samples:
        progress.warn(f"{calib}: {data.calibration.count} samples to calibrate with; {samples} were asked for.")
    if not data.apart:
        progress.note("the graph is judged on the samples that it is calibrated with: there are no others")
    return data
