"""``deploy quantize``: from a float32 export to an INT8 graph for one target."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

import calibration
from calibration.layers import LayerNoise
from calibration.sensitivity import FloatLayerPlan
from calibration.table import CalibrationTable
from calibration.target import MIN_OPSET
from deploy.core.artifact import Artifact, Payload
from deploy.core.backend import ONNX
from deploy.core.brief import brief
from deploy.core.cpu import this_cpu
from deploy.core.errors import UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.names import REJECTED
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.data.dataset import HELD_OUT
from deploy.models.given import given_source
from deploy.quantization import DEFAULT_EFFORT, DEFAULT_METHOD, DEFAULT_SAMPLES
from deploy.quantization.asked import Asked
from deploy.quantization.cache import batch_of, calibrated
from deploy.quantization.data import CalibrationData, CalibrationSamples, open_data
from deploy.quantization.evidence import Evidence, QualityBounds
from deploy.quantization.fine_tuning import TRAINING_SAMPLES, FineTuning, Tuned
from deploy.quantization.fitting import fitting
from deploy.quantization.search import RANKING_SAMPLES, Quantizer, keep_mixed_outputs, search
from deploy.quantization.source import Source, open_source
from deploy.quantization.tuning import TriedMethod, rewritten, tune
from deploy.quantization.worker import GraphChild, outline

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike

MENDING = {True: QualityBounds(max_drop=1.0), False: QualityBounds(min_sqnr=20.0)}
"""Bounds that the command for a poor file has, with and without labels."""

MANIFEST_LAYERS = 10
"""Number of layers with the most noise that the manifest records."""


QuantizeVerdict = Literal["pass", "fail", "measured", "poor"]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class QuantizeReport:
    """Result of `quantize`.

    Attributes:
        source: the float file.
        artifact: the INT8 file and its manifest; a file that fails is stored in the folder ``rejected``.
        verdict: ``pass`` or ``fail`` if bounds were given, else ``measured``, or ``poor`` if an output is too far from
            the float one to be of use; ``fail`` if a value is not finite.
        reasons: why the verdict is ``fail`` or ``poor``; else empty.
        evidence: comparison with the float graph: SQNR in dB, agreement and accuracy as shares.
        plan: layers kept in float, with the evidence after each; None if no bound was given.
        scaled: tensors whose channels were scaled before the calibration, by method; the float function is the same.
        tried: methods that were tried to make the error smaller, with what each reached.
        tuned: how the weights were trained; None if they were not.
        worst: layers in order of their noise, the largest first.
        table: the ranges.
        reused: the table was stored by an earlier run.
        data: samples of the calibration and of the comparison.
        seconds: duration of the call.
    """

    source: Path
    artifact: Artifact
    verdict: QuantizeVerdict
    reasons: tuple[str, ...]
    evidence: Evidence
    plan: FloatLayerPlan[Evidence] | None
    scaled: Mapping[str, Sequence[str]]
    tried: tuple[TriedMethod, ...]
    tuned: Tuned | None
    worst: tuple[LayerNoise, ...]
    table: CalibrationTable
    reused: bool
    data: CalibrationData
    seconds: float

    def __repr__(self) -> str:
        worst = min((item.sqnr_db for item in self.evidence.outputs if item.sqnr_db is not None), default=None)
        return brief(self, self.verdict, self.artifact.path, None if worst is None else f"SQNR {worst:.1f} dB")

    @property
    def mend(self) -> str | None:
        """The command that keeps layers in float until the result is of use, if the verdict is ``poor``."""
        return self.artifact.manifest.options.get("mend")

    @property
    def float_verdict(self) -> str:
        """The verdict of the float file; ``unproven`` if its model is not known."""
        return str((self.artifact.manifest.parity or {})["reference_verdict"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            "file": str(self.artifact.path),
            "bytes": sum(item.bytes for item in manifest.files),
            "model": manifest.model,
            "target": manifest.target,
            "cpu": manifest.options.get("cpu"),
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "mend": self.mend,
            "evidence": self.evidence.to_dict(),
            "options": dict(manifest.options),
            "parent": manifest.parent,
            "scaled": dict(self.scaled),
            "tried": to_plain(self.tried),
            "fine_tuning": to_plain(self.tuned),
            "worst_layers": to_plain(self.worst),
            "calibration": {**self.data.calibration.summary, "reused": self.reused, "moved": self.table.moved},
            "judged_on": {**self.data.evidence.summary, "apart": self.data.apart},
            "float_verdict": self.float_verdict,
            "weights": asdict(manifest.weights),
            "seconds": round(self.seconds, 3),
        }


def quantize(
    model: ModelLike | None = None,
    *,
    inputs: ExampleInputs | None = None,
    name: str | None = None,
    calib: str | Path,
    target: str = "onnxruntime",
    method: str = DEFAULT_METHOD,
    samples: int = DEFAULT_SAMPLES,
    effort: str = DEFAULT_EFFORT,
    max_drop: float | None = None,
    min_sqnr: float | None = None,
    fp16: bool = False,
    cpu: str | None = None,
    preprocess: Sequence[str] = (),
    skip_bad: bool = False,
    fine_tuning: FineTuning | None = None,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> QuantizeReport:
    """Calibrate a float32 export and write an INT8 graph for one target.

    The INT8 graph is compared with the float graph on up to 512 samples. They are not calibration samples if the data
    has a test split or more samples than ``samples``.

    Args:
        model: name of a model, an ONNX file, an artifact, a request, a module in memory, or None for the newest
            float32 export. A model without a float32 export is exported first, and so is every request.
        inputs: of a module in memory that has to be exported, see `deploy.ExampleInputs`.
        name: name of the folder and the files; default: that of the export.
        calib: calibration data: a folder of images, a bundled data set, or a ``.npy`` or ``.npz`` file. Array files
            hold float arrays in the shape of the model's inputs, the first axis counting samples, or uint8 images
            (N, H, W, C).
        target: ``onnxruntime``, ``openvino``, ``tensorrt``, ``tensorrt-fp8`` for FP8 in place of INT8, or the name of a
            plug-in.
        method: how the range of each tensor is chosen: ``minmax``, ``percentile``, ``entropy``, ``mse``, or the name
            of a plug-in.
        samples: maximum number of calibration samples, at least 2.
        effort: what is tried to make the error smaller: ``low`` nothing; ``medium`` equalization, SmoothQuant and
            bias correction; ``high`` also rounding by the error of each layer, which takes minutes. Of the last two,
            what raises the SQNR on calibration samples is kept.
        max_drop: largest allowed drop of top-1 accuracy, in percentage points, which needs labels; of a detector, of
            mAP, which needs boxes; of a network for the classes of pixels, of mIoU, which needs masks. Layers are kept
            in float until it is met.
        min_sqnr: lowest allowed signal-to-quantization-noise ratio of any output, in dB. Layers are kept in float
            until it is met.
        fp16: compute layers that are not INT8 in FP16, where it can hold their values; only for the target
            ``tensorrt``, opset 19 or later.
        cpu: kind of CPU that the file is for, of the targets ``onnxruntime`` and ``openvino``: ``avx2`` for CPUs
            without VNNI, which saturate sums of INT8 products unless weights take seven bits, or ``vnni``; default:
            this machine's. A file that this machine would run wrongly is simulated.
        preprocess: ``key=value`` changes to the model's preprocessing, such as ``crop=224``.
        skip_bad: skip unreadable images.
        fine_tuning: train the weights after that, see `deploy.FineTuning`; ``calib`` then holds the training samples.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages.

    Returns:
        The INT8 file with its evidence. A verdict ``fail`` or ``poor`` is not an exception.

    Raises:
        UsageError: an unknown target or method, or options that do not fit each other, the model or the data.
        ArtifactError: the ONNX file does not exist or is not a float export.
        DigestError: the export differs from its manifest.
        MissingPackageError: the target is a runtime for CPUs, such as OpenVINO, and not installed.
        DataError: the calibration data cannot be read or does not fit the model.
        BackendError: a runtime cannot open or run a graph.
        DeployError: any other error of `deploy.core.errors`. Only a complete calibration table is left behind.
    """
    began = time.perf_counter()
    asked = Asked(
        calib=str(calib),
        target=target,
        method=method,
        samples=samples,
        effort=effort,
        fp16=fp16,
        cpu=cpu,
        preprocess=preprocess,
        skip_bad=skip_bad,
        fine_tuning=fine_tuning,
    )
    asked.check()
    store = Store.at(artifacts)
    source = open_source(given_source(model, inputs, name), store, preprocess, progress, name=name, half=True)
    bounds = QualityBounds(min_sqnr=min_sqnr, max_drop=max_drop)
    with GraphChild() as child, IsolatedRunner("onnxruntime") as runner:
        with progress.stage("reading the data"):
            data, training = _opened(asked, source, bounds, progress)
        with progress.stage("preparing the graph"):
            prepared = child.prepare(source.path)
            graph = outline(prepared)
        declared = calibration.find_target(target)
        if fp16 or declared.floating:
            _check_opset(asked, source, graph)
        scored = max_drop is not None
        judged = fitting(data.evidence, source, graph, runner, target, scored=scored, progress=progress)
        data = replace(data, evidence=judged)
        scaled = rewritten(data.calibration, child, prepared, effort, progress)
        graph = outline(prepared)
        table, reused = calibrated(source, graph, data.calibration, method, scaled, child, store, progress)
        with store.transaction(source.slug) as transaction:
            precision = f"{declared.precision}-fp16" if fp16 else declared.precision
            quantizer = Quantizer(
                source=source,
                prepared=prepared,
                graph=graph,
                table=table,
                target=target,
                samples=data.evidence,
                path=transaction.path(f"{source.slug}.{precision}-{target}.onnx"),
                fp16=fp16,
                cpu=(cpu or this_cpu()) if declared.by_cpu else None,
            )
            keep_mixed_outputs(quantizer, runner, progress)
            tried = tune(quantizer, data.calibration, child, runner, effort, progress)
            plan = search(quantizer, runner, bounds, progress)
            evidence, tuned = plan.result, None
            if fine_tuning is not None:
                from deploy.quantization.fine_tune import fine_tuned  # imports PyTorch

                tuned = fine_tuned(quantizer, plan.keep_float, training, fine_tuning, progress)
                with progress.stage("evaluating"):
                    evidence = quantizer.judge(runner, data.evidence).measure(quantizer.path, progress)
            verdict, reasons = _verdict(evidence, bounds)
            mend = asked.command(source, MENDING[evidence.drop is not None])
            if verdict == "poor":
                kind = declared.precision.upper()
                progress.warn(f"the {kind} file is poor: {'; '.join(reasons)}. To keep layers in float: {mend}")
            with progress.stage("comparing layers"):
                size, fixed = batch_of(graph)
                feeds = data.evidence.head(max(RANKING_SAMPLES, size)).batches(size, fixed=fixed)
                worst = tuple(child.layer_noise(quantizer.write_float32(plan.keep_float, child.folder), feeds))
            path = quantizer.write(plan.keep_float)
            if fp16:
                _note_beyond_half(quantizer.beyond_half, progress)
            written = [item for item in (path, path.with_name(f"{path.name}.data")) if item.exists()]
            manifest = source.derived_manifest(
                format=ONNX,
                precision=precision,
                target=target,
                files=tuple(map(Payload.of, written)),
                options={
                    "rebuild": asked.rebuild(source, bounds),
                    "mend": mend if verdict == "poor" else None,
                    "method": method,
                    "effort": effort,
                    "cpu": quantizer.cpu,
                    "scaled": scaled,
                    "tried": to_plain(tried),
                    "fine_tuning": to_plain(tuned),
                    "bounds": asdict(bounds),
                    "verdict": verdict,
                    "calibration": dict(table.key),
                    "keep_float": [step.layer for step in plan.steps],
                    "float_tail": [node.name for node in graph.graph.node if node.name in quantizer.always_float],
                    "plan": [
                        {"layer": step.layer, "sqnr_db": step.result.sqnr_db, "drop": step.result.drop}
                        for step in plan.steps
                    ],
                },
                parity={
                    **evidence.parity(verdict, precision, data, source.verdict),
                    "worst_layers": to_plain(worst[:MANIFEST_LAYERS]),
                },
            )
            artifact = transaction.publish(manifest, REJECTED if verdict == "fail" else "")
    return QuantizeReport(
        source=source.path,
        artifact=artifact,
        verdict=verdict,
        reasons=reasons,
        evidence=evidence,
        plan=plan if bounds.given else None,
        scaled=scaled,
        tried=tried,
        tuned=tuned,
        worst=worst,
        table=table,
        reused=reused,
        data=data,
        seconds=time.perf_counter() - began,
    )


def _note_beyond_half(nodes: Mapping[str, str] | None, progress: Progress) -> None:
    """Say which nodes stay in float32, or that nothing is known about their values."""
    if nodes is None:
        progress.note("the graph cannot be run node by node, so it is not known whether FP16 can hold its values")
    elif nodes:
        shown = ", ".join(f"{name} ({size})" for name, size in list(nodes.items())[:3])
        more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
        progress.note(f"kept in float32, since FP16 cannot hold their values: {shown}{more}")


def _opened(
    asked: Asked, source: Source, bounds: QualityBounds, progress: Progress
) -> tuple[CalibrationData, CalibrationSamples]:
    """Return the data for calibration and evidence, and the training samples, which include those for calibration."""
    samples, held_out = asked.samples, 0.0
    if asked.fine_tuning is not None:
        samples, held_out = max(samples, TRAINING_SAMPLES), HELD_OUT
    data = open_data(
        asked.calib, source, samples=samples, held_out=held_out, skip_bad=asked.skip_bad, progress=progress
    )
    if asked.preprocess and "preprocessing" not in data.calibration.summary:
        raise UsageError(f"--preprocess is only used with images; {asked.calib} holds the inputs of the model.")
    if bounds.max_drop is not None and data.evidence.labels is None and data.evidence.pictures is None:
        raise UsageError(
            f"--max-drop: {asked.calib} has no labels that match the classes of {source.model}, and no boxes or masks.",
            "bound the SQNR instead: --min-sqnr 20",
        )
    if data.calibration.count < asked.samples:
        progress.warn(f"{asked.calib}: {data.calibration.count} calibration samples; {asked.samples} were requested.")
    return replace(data, calibration=data.calibration.spread(asked.samples)), data.calibration


def _check_opset(asked: Asked, source: Source, graph: onnx.ModelProto) -> None:
    """Refuse a file whose opset is too old for FP16 or FP8 beside its pairs."""
    if calibration.opset(graph) < MIN_OPSET:
        asking = "--fp16" if asked.fp16 else f"--target {asked.target}"
        raise UsageError(
            f"{source.path}: {asking} needs opset {MIN_OPSET}, and the file has {calibration.opset(graph)}.",
            f"deploy export {source.model if source.manifest else 'MODEL'} --opset 20",
        )


def _verdict(evidence: Evidence, bounds: QualityBounds) -> tuple[QuantizeVerdict, tuple[str, ...]]:
    """Return the verdict and its reasons. Bounds that are met are the user's decision on what is of use."""
    violations = tuple(bounds.violations(evidence))
    if violations or bounds.given:
        return "fail" if violations else "pass", violations
    weaknesses = tuple(evidence.weaknesses())
    return "poor" if weaknesses else "measured", weaknesses
