"""``deploy export``: from a trained model to a proven file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, Manifest, Payload
from deploy.core.errors import BackendError, ExportError, InputSpecError, UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import REJECTED, Store
from deploy.core.tensors import TensorSpec, symbols
from deploy.exporting.prove import prove
from deploy.exporting.samples import ProbeSamples
from deploy.models.open import open_model
from deploy.models.request import ModelRequest
from deploy.parity.probes import can_mirror
from deploy.parity.verdict import ParityReport
from exporters import torch_to_onnx
from exporters.torch_to_onnx import Exported

PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What `export_model` made.

    Attributes:
        artifact: the file, with its manifest; one that failed its proof lies in the folder ``rejected``.
        parity: the proof.
        strategy: which exporter made it.
        notes: what was tried and why it was not taken.
        seconds: wall time of the whole.
    """

    artifact: Artifact
    parity: ParityReport
    strategy: str
    opset: int
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            "file": str(self.artifact.path),
            "bytes": sum(payload.bytes for payload in manifest.files),
            "files": [payload.file for payload in manifest.files],
            "model": manifest.model,
            "precision": manifest.precision,
            "opset": self.opset,
            "strategy": self.strategy,
            "inputs": [asdict(spec) for spec in manifest.inputs],
            "outputs": [asdict(spec) for spec in manifest.outputs],
            "weights": asdict(manifest.weights),
            "parity": self.parity.to_dict(),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    model: Model
    inputs: tuple[TensorSpec, ...]
    options: torch_to_onnx.ExportOptions
    seed: int
    samples: ProbeSamples | None
    progress: Progress


def export_model(
    model: str | ModelRequest,
    *,
    artifacts: Path | None = None,
    dynamic: Sequence[str] | None = None,
    opset: int | None = None,
    precision: str = "fp32",
    strategy: str = "auto",
    samples: ProbeSamples | None = None,
    progress: Progress = SILENT,
) -> ExportReport:
    """Export a model to ONNX and prove the file equal to it.

    Args:
        model: a name as on the command line, or a full request.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        dynamic: names of the dimensions to keep dynamic; default ``batch`` and every name given in ``--input``.
        opset: the ONNX operator set; None for the strategy's own.
        precision: ``fp32`` or ``fp16``.
        strategy: ``auto`` (torch.export, then tracing), ``export`` or ``trace``.
        samples: real samples, probed beside the seeded ones: arrays by input name, or images (`load_samples`).
        progress: told what happens.

    Returns:
        The report; a verdict other than ``pass`` is for the caller to act on.

    Raises:
        DeployError: see `deploy.core.errors`; nothing is left behind.
    """
    began = time.perf_counter()
    request = ModelRequest(name=model) if isinstance(model, str) else model
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}.")
    store = Store(artifacts or default_root())
    with IsolatedRunner("onnxruntime") as candidate:
        with progress.stage("building the model"):
            built = open_model(request, store, progress)
            job = _Job(
                model=built,
                inputs=choose_dynamic(built, request, dynamic),
                options=torch_to_onnx.ExportOptions(opset=opset, precision=precision),
                seed=request.seed,
                samples=samples,
                progress=progress,
            )
        with store.transaction(built.slug) as transaction:
            path = transaction.path(f"{built.slug}.{precision}.onnx")
            made, parity, notes = _first_that_holds(job, path, strategy, candidate)
            with progress.stage("writing"):
                manifest = _manifest(job, made, parity)
                artifact = transaction.publish(manifest, REJECTED if parity.verdict == "fail" else "")
    return ExportReport(
        artifact=artifact,
        parity=parity,
        strategy=made.strategy,
        opset=made.opset,
        notes=tuple(notes),
        seconds=time.perf_counter() - began,
    )


def choose_dynamic(model: Model, request: ModelRequest, dynamic: Sequence[str] | None) -> tuple[TensorSpec, ...]:
    """The model's inputs with only the wanted dimensions left symbolic; a fixed batch is 1.

    Raises:
        InputSpecError: a wanted dimension is not one of the model's.
    """
    every = symbols(model.inputs)
    if dynamic is None:
        dynamic = (
            every if request.inputs or model.name.endswith(".pt2") else [name for name in every if name == "batch"]
        )
    unknown = [name for name in dynamic if name not in every]
    if unknown:
        raise InputSpecError(
            f"--dynamic {unknown[0]}: {model.name} has no such dimension; it has: {', '.join(every) or 'none'}."
        )
    fixed = {name: 1 if name == "batch" else model.sizes[name] for name in every if name not in dynamic}
    return tuple(spec.bind(fixed) for spec in model.inputs)


def _first_that_holds(
    job: _Job, path: Path, strategy: str, candidate: IsolatedRunner
) -> tuple[Exported, ParityReport, list[str]]:
    """Try the strategies in order; one whose graph does not hold what it claims is not kept where another is left."""
    order = list(torch_to_onnx.STRATEGIES) if strategy == "auto" else [strategy]
    if strategy != "auto" and strategy not in torch_to_onnx.STRATEGIES:
        raise UsageError(f"strategy {strategy!r} is not one of auto, {', '.join(torch_to_onnx.STRATEGIES)}.")
    notes: list[str] = []
    if strategy == "auto" and job.model.untraceable:
        order = ["trace"]
        notes.append(f"export was not tried: {job.model.untraceable}. Tracing.")
        job.progress.note(notes[-1])
    refusals: list[ExportError] = []
    for index, name in enumerate(order):
        last = index == len(order) - 1
        try:
            with job.progress.stage(f"exporting ({name})"):
                made = torch_to_onnx.export(job.model, job.inputs, path, job.options, strategy=name)
        except ExportError as exc:
            refusals.append(exc)
            if not last:
                notes.append(f"{exc.message} Trying {order[index + 1]}.")
                job.progress.note(notes[-1])
                continue
            raise _none_worked(job.model, refusals) from exc
        try:
            with job.progress.stage("checking parity"):
                parity = prove(
                    job.model,
                    path,
                    candidate,
                    precision=job.options.precision,
                    seed=job.seed,
                    samples=job.samples,
                    mirrored=bool(made.decided),
                    progress=job.progress,
                )
        except BackendError as exc:
            if last or candidate.dead:
                raise
            reason = exc.message
        else:
            if parity.verdict != "fail" or last:
                return made, _with_decisions(parity, made, job), notes
            reason = parity.reasons[0]
        notes.append(f"{name}: the graph did not hold ({reason}). Trying {order[index + 1]}.")
        job.progress.note(notes[-1])
    raise AssertionError("unreachable: the last strategy returns or raises")


def _with_decisions(parity: ParityReport, made: Exported, job: _Job) -> ParityReport:
    """Say, in the evidence too, that tracing took one way where the model can take several."""
    if not made.decided:
        return parity
    more = f" and {len(made.decided) - 1} more places" if len(made.decided) > 1 else ""
    note = (
        f"the trace took one way by what it saw at {made.decided[0]}{more}; the graph has no other: "
        "parity is shown for the ways that the probes take"
    )
    if can_mirror(job.inputs):
        note += ", their negatives among them"
    job.progress.warn(f"{note}.")
    return dataclasses.replace(parity, notes=(*parity.notes, note))


def _none_worked(model: Model, refusals: list[ExportError]) -> ExportError:
    hints = [refusal.hint for refusal in refusals if refusal.hint]
    return ExportError(
        f"{model.name} could not be exported. " + " ".join(refusal.message for refusal in refusals),
        "; ".join(dict.fromkeys(hints)) or None,
    )


def _manifest(job: _Job, made: Exported, parity: ParityReport) -> Manifest:
    data = made.path.with_name(f"{made.path.name}.data")
    payloads = [Payload.of(path) for path in (made.path, data) if path.exists()]
    return Manifest(
        model=job.model.name,
        slug=job.model.slug,
        format="onnx",
        precision=job.options.precision,
        files=tuple(payloads),
        inputs=made.inputs,
        outputs=made.outputs,
        weights=job.model.weights,
        preprocessing=job.model.preprocessing,
        labels=job.model.labels,
        reference=job.model.reference,
        options={"strategy": made.strategy, "opset": made.opset, "sizes": dict(job.model.sizes)},
        parity=parity.to_dict(),
    )
