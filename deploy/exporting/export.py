"""``deploy export``: write a model as an ONNX file and check the file against the model."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from deploy.core.artifact import Artifact, Manifest
from deploy.core.brief import brief, margin_text
from deploy.core.errors import BackendError, DeployError, ExportError, InputSpecError, UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.names import REJECTED
from deploy.core.progress import SILENT, Progress, PythonWarnings
from deploy.core.store import Store
from deploy.core.tensors import SizeRange, TensorSpec, symbols, with_ranges
from deploy.exporting.half_options import HalfOptions, half_options
from deploy.exporting.prove import ProofOptions, prove
from deploy.models.given import as_request
from deploy.models.open import open_model
from deploy.models.owner import claim
from deploy.models.preprocessing import check_labels, check_preprocessing, override, with_changes
from deploy.models.request import ModelRequest
from deploy.parity.probes import Level, can_negate, check_level
from deploy.parity.verdict import ParityReport, Verdict
from deploy.precision.plan import PrecisionPlan, payloads
from deploy.support import onnx_file
from deploy.tasks.pipeline import GraphPipeline
from deploy.tasks.postprocessing import Postprocessing
from deploy.tasks.task import named_task
from exporters import torch_to_onnx
from exporters.torch_to_onnx import Exported

if TYPE_CHECKING:
    from deploy.exporting.samples import ProbeSamples
    from deploy.models.in_memory import ExampleInputs, ModelLike, WeightsLike

Precision = Literal["fp32", "fp16", "bf16", "mixed"]
Strategy = Literal["auto", "export", "trace"]
PRECISIONS = get_args(Precision)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ExportReport:
    """The result of `export_model`.

    Attributes:
        artifact: the file and its manifest; in the folder ``rejected`` if the parity check failed.
        parity: the parity check; ``parity.margin`` is how many times the limit exceeds the noise-to-signal ratio.
        strategy: the strategy that was used, ``export`` or ``trace``.
        opset: ONNX operator set of the file.
        notes: how the model is called, why strategies that were tried before were not used, and which other weights
            the file had before.
        seconds: duration of the call.
        plan: in half precision, which nodes stay in float32, and why; None otherwise.
    """

    artifact: Artifact
    parity: ParityReport
    strategy: str
    opset: int
    notes: tuple[str, ...]
    seconds: float
    plan: PrecisionPlan | None = None

    def __repr__(self) -> str:
        return brief(self, self.verdict, self.artifact.path, margin_text(self.parity.margin))

    @property
    def verdict(self) -> Verdict:
        """Verdict of the parity check: ``pass``, ``fail`` or ``inconclusive``."""
        return self.parity.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            **self.artifact.facts(),
            "model": manifest.model,
            "opset": self.opset,
            "strategy": self.strategy,
            "inputs": [asdict(spec) for spec in manifest.inputs],
            "outputs": [asdict(spec) for spec in manifest.outputs],
            "weights": asdict(manifest.weights),
            "parity": self.parity.to_dict(),
            "plan": self.plan.to_dict() if self.plan else None,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    model: Model
    inputs: tuple[TensorSpec, ...]
    options: torch_to_onnx.ExportOptions
    precision: str
    seed: int
    samples: ProbeSamples | None
    proof: ProofOptions
    half: HalfOptions | None
    preprocess: Sequence[str]
    labeled: bool
    postprocessing: Postprocessing | None
    progress: Progress


def export_model(
    model: ModelLike,
    *,
    inputs: ExampleInputs | None = None,
    name: str | None = None,
    outputs: Sequence[str] | None = None,
    artifacts: str | Path | None = None,
    dynamic: Sequence[str] | None = None,
    opset: int | None = None,
    precision: Precision = "fp32",
    min_sqnr: float | None = None,
    keep_float: Sequence[str] = (),
    only_half: Sequence[str] = (),
    plan: str | Path | None = None,
    strategy: Strategy = "auto",
    preprocess: Sequence[str] = (),
    labels: Sequence[str] = (),
    pipeline: GraphPipeline | None = None,
    samples: ProbeSamples | None = None,
    probes: Level = "standard",
    min_coverage: float | None = None,
    accept_unreached: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> ExportReport:
    """Export a model to ONNX and check the file against the model.

    A folder that holds another model is not written to. Other weights of the same model replace its file, which a
    note of the report says, unless they are untrained and the file's are trained.

    Args:
        model: name of the model as on the command line, a path, a full request, or a module in memory.
        inputs: of a module in memory: example tensors or texts of ``--input``, see `deploy.ExampleInputs`; of a name:
            texts.
        name: name of the model's folder and files; default: the stem of the checkpoint, where there is one, else the
            model's own name; of a module in memory, see `deploy.module_request`.
        outputs: names of the outputs that are exported and count; default: all.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        dynamic: names of the dynamic dimensions; default ``batch`` and those named in ``--input``.
        opset: ONNX operator set; default: the strategy's own.
        precision: ``fp32``; ``fp16`` or ``bf16``, with as few nodes in float32 as hold; ``mixed``, which is ``fp16``
            held to ``min_sqnr``, 40 dB by default. The file of a float16 or float64 model has the model's own.
        min_sqnr: signal over noise in dB that half precision is held to; for this and the next three see
            `deploy.exporting.half_options.HalfOptions`.
        keep_float: patterns of nodes that stay in float32.
        only_half: patterns of nodes that do not.
        plan: a plan to use in place of a search.
        strategy: ``export`` (torch.export), ``trace`` (run once and record), or ``auto``: both, in this order.
        preprocess: ``key=value`` changes to the model's preprocessing, or all of it: ``crop=224``, ``mean=…``; stored
            in the manifest.
        labels: class names, stored in the manifest; default: the model's own.
        pipeline: steps before and after the model that become part of the graph, and the form of a detector's outputs.
        samples: real samples, probed in addition: arrays by input name, or images; see
            `deploy.exporting.samples.load_samples`.
        probes: how many probes are run: ``quick``, ``standard`` or ``thorough``; or ``data``: only the samples.
        min_coverage: coverage in percent below which the verdict is inconclusive.
        accept_unreached: accept branches of a traced graph that no probe took.
        force: write the file even if the folder holds another model, or trained weights and these are untrained.
        progress: receives progress messages.

    Returns:
        The report; a verdict other than ``pass`` raises no error.

    Raises:
        UsageError: the folder holds another model, or trained weights, and ``force`` is not set.
        DeployError: see `deploy.core.errors`; partial results are discarded.
    """
    began = time.perf_counter()
    request = as_request(model, inputs, name, outputs)
    if request.is_onnx:
        raise UsageError(
            f"{request.name}: an ONNX file cannot be exported again.",
            f"to check it against its model: deploy check MODEL --onnx {request.name}",
        )
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}.")
    if strategy not in ("auto", *torch_to_onnx.STRATEGIES):
        raise UsageError(f"strategy {strategy!r} is not one of auto, {', '.join(torch_to_onnx.STRATEGIES)}.")
    check_level(probes, samples is not None)
    if pipeline is not None:
        pipeline = dataclasses.replace(pipeline, classes=len(labels) or pipeline.classes)
        if "preprocessing" in pipeline.parts:
            pipeline, preprocess = dataclasses.replace(pipeline, preprocess=tuple(preprocess)), ()
        request = dataclasses.replace(request, pipeline=pipeline)
    half = half_options(precision, min_sqnr, keep_float, only_half, plan)
    store = Store.at(artifacts)
    with IsolatedRunner("onnxruntime") as candidate:
        with progress.stage("building the model"):
            built = open_model(request, store, progress)
            if preprocess:
                recipe = override(built.preprocessing, preprocess)
                built = built.replace(preprocessing=check_preprocessing(recipe, built.inputs, built.name))
            built = built.replace(labels=tuple(labels) or built.labels)
            if half is not None and built.precision == "fp64":
                raise UsageError(f"precision {precision}: {built.name} is float64.", "convert it with .float() first")
            job = _Job(
                model=built,
                inputs=choose_dynamic(built, request, dynamic),
                options=torch_to_onnx.ExportOptions(opset=opset),
                half=half if built.precision == "fp32" else None,
                precision=(half.precision if half else "fp32") if built.precision == "fp32" else built.precision,
                seed=request.seed,
                samples=samples,
                proof=ProofOptions(
                    probes=probes,
                    min_coverage=min_coverage,
                    accept_unreached=accept_unreached,
                    min_sqnr=half.min_sqnr if half else None,
                ),
                preprocess=preprocess,
                labeled=bool(labels) and pipeline is None,
                postprocessing=request.pipeline.outputs if request.pipeline else None,
                progress=progress,
            )
        replaced = claim(
            store,
            built.slug,
            model=built.name,
            reference=built.reference,
            weights=built.weights,
            precision=job.precision,
            force=force,
        )
        if replaced:
            progress.note(replaced)
        with store.transaction(built.slug) as transaction:
            path = transaction.path(f"{built.slug}.{job.precision}.onnx")
            exported, parity, chosen, notes = _export_and_check(job, path, strategy, candidate)
            with progress.stage("writing"):
                manifest = _manifest(job, exported, parity, chosen)
                artifact = transaction.publish(manifest, REJECTED if parity.verdict == "fail" else "")
    return ExportReport(
        artifact=artifact,
        parity=parity,
        strategy=exported.strategy,
        opset=exported.opset,
        notes=(*notes, *([replaced] if replaced else [])),
        seconds=time.perf_counter() - began,
        plan=chosen,
    )


def export(
    model: ModelLike,
    example_inputs: ExampleInputs | None = None,
    *,
    name: str | None = None,
    weights: WeightsLike | None = None,
    dynamic: Sequence[str] | Mapping[str, Mapping[int, str]] | None = None,
    artifacts: str | Path | None = None,
    opset: int | None = None,
    precision: Precision = "fp32",
    min_sqnr: float | None = None,
    keep_float: Sequence[str] = (),
    only_half: Sequence[str] = (),
    plan: str | Path | None = None,
    strategy: Strategy = "auto",
    preprocess: Sequence[str] = (),
    labels: Sequence[str] = (),
    pipeline: GraphPipeline | None = None,
    samples: ProbeSamples | None = None,
    probes: Level = "standard",
    min_coverage: float | None = None,
    accept_unreached: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a module to ONNX and check the file against the module; `export_model` with fewer words.

    Args:
        model: a module in memory, or any other model, see `export_model`.
        example_inputs: of a module: example tensors or texts of ``--input``, see `deploy.ExampleInputs`.
        name: name of the model's folder and files; default: the class and the first digits of a digest.
        weights: a checkpoint file, or of a module also a state dict, in place of the model's own weights; a module on
            the device ``meta`` has none.
        dynamic: names of the dynamic dimensions, ``["batch"]``; or, by input and axis, names for the axes of example
            tensors that are dynamic besides the batch: ``{"x": {2: "height", 3: "width"}}``.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        opset: ONNX operator set; default: the strategy's own.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``mixed``, see `export_model`.
        min_sqnr: signal over noise in dB that half precision is held to; for this and the next three see
            `deploy.exporting.half_options.HalfOptions`.
        keep_float: patterns of nodes that stay in float32.
        only_half: patterns of nodes that do not.
        plan: a plan to use in place of a search.
        strategy: ``export`` (torch.export), ``trace`` (run once and record), or ``auto``: both, in this order.
        preprocess: ``key=value`` changes to the model's preprocessing, stored in the manifest.
        labels: class names, stored in the manifest; default: the model's own.
        pipeline: steps before and after the model that become part of the graph, and the form of a detector's outputs.
        samples: real samples, probed in addition.
        probes: how many probes are run.
        min_coverage: coverage in percent below which the verdict is inconclusive.
        accept_unreached: accept branches of a traced graph that no probe took.
        force: replace another model, or trained weights by untrained ones.
        progress: receives progress messages; None: warnings, such as one for untrained weights, become Python's.

    Returns:
        The report; a verdict other than ``pass`` raises no error.

    Raises:
        DeployError: as `export_model`.
    """
    request = as_request(model, example_inputs, name, weights=weights)
    if isinstance(dynamic, Mapping):
        request, dynamic = _with_named_axes(request, dynamic), None
    return export_model(
        request,
        artifacts=artifacts,
        dynamic=dynamic.split(",") if isinstance(dynamic, str) else dynamic,
        opset=opset,
        precision=precision,
        min_sqnr=min_sqnr,
        keep_float=keep_float,
        only_half=only_half,
        plan=plan,
        strategy=strategy,
        preprocess=preprocess,
        labels=labels,
        pipeline=pipeline,
        samples=samples,
        probes=probes,
        min_coverage=min_coverage,
        accept_unreached=accept_unreached,
        force=force,
        progress=progress or PythonWarnings(),
    )


def _with_named_axes(request: ModelRequest, names: Mapping[str, Mapping[int, str]]) -> ModelRequest:
    """Return a request whose inputs, texts of ``--input``, have names for the given axes."""
    texts = {text.partition(":")[0]: text.split(":") for text in request.inputs}
    for name, axes in names.items():
        if name not in texts:
            raise InputSpecError(f"dynamic: {request.name} has no input {name!r}; it has {', '.join(texts) or 'none'}.")
        dims = texts[name][1].split(",")
        for axis, symbol in axes.items():
            if not -len(dims) <= axis < len(dims):
                raise InputSpecError(f"dynamic: the input {name!r} has {len(dims)} axes, not an axis {axis}.")
            size = dims[axis]
            dims[axis] = f"{symbol}={size}" if size.isdigit() else symbol
        texts[name][1] = ",".join(dims)
    return dataclasses.replace(request, inputs=tuple(":".join(parts) for parts in texts.values()))


def choose_dynamic(model: Model, request: ModelRequest, dynamic: Sequence[str] | None) -> tuple[TensorSpec, ...]:
    """Return the model's inputs with all dimensions but ``dynamic`` fixed; a fixed batch is 1.

    By default the dimensions that the model declares are dynamic, and with ``--input`` every named one.

    Raises:
        InputSpecError: the model has no dimension of this name.
    """
    every = symbols(model.inputs)
    if dynamic is None:
        named = request.inputs or model.name.endswith(".pt2")
        dynamic = every if named else [name for name in every if name in model.dynamic]
    unknown = [name for name in dynamic if name not in every]
    if unknown:
        raise InputSpecError(
            f"--dynamic {unknown[0]}: {model.name} has no such dimension; it has {', '.join(every) or 'none'}."
        )
    fixed = {name: 1 if name == "batch" else model.sizes[name] for name in every if name not in dynamic}
    return tuple(spec.bind(fixed) for spec in model.inputs)


def _export_and_check(
    job: _Job, path: Path, strategy: str, candidate: IsolatedRunner
) -> tuple[Exported, ParityReport, PrecisionPlan | None, list[str]]:
    """Try the strategies in order until a file passes, or take the last one.

    Returns:
        Also the plan of a file in half precision, and notes, such as why other strategies were not used.
    """
    order = list(torch_to_onnx.STRATEGIES) if strategy == "auto" else [strategy]
    notes = list(job.model.notes)

    def note(text: str) -> None:
        notes.append(text)
        job.progress.note(text)

    if strategy == "auto" and job.model.untraceable:
        order = ["trace"]
        note(f"torch.export was skipped: {job.model.untraceable}. Tracing.")
    reasons: list[str] = []
    hints: dict[str, None] = {}
    for name, following in zip(order, [*order[1:], None], strict=True):
        try:
            with job.progress.stage(f"exporting ({name})"):
                written = path.with_name(f"float32.{path.name}") if job.half else path
                exported = torch_to_onnx.export(job.model, job.inputs, written, job.options, strategy=name)
            if exported.caches:
                note(f"not exported, since caches are no outputs: {', '.join(exported.caches)}")
            check = functools.partial(_check, job, exported, path, candidate)
            plan = None
            if job.half is None:
                parity = check()
            else:
                exported, parity, plan, found = _in_half(job, job.half, exported, path, check)
                for text in found:
                    note(text)
        except ExportError as exc:
            hints |= {exc.hint: None} if exc.hint else {}
            reasons.append(exc.message)
            if following is None:
                text = f"{job.model.name} could not be exported. {' '.join(reasons)}"
                raise ExportError(text, "; ".join(hints) or None) from exc
        except BackendError as exc:
            if candidate.dead:
                _prefix(exc, reasons)
                raise
            reasons.append(f"{name}: the graph does not run: {exc.message}")
            if following is None:
                raise BackendError(" ".join(reasons), exc.hint) from exc
        except DeployError as exc:
            _prefix(exc, reasons)
            raise
        else:
            if parity.verdict != "fail" or following is None:
                return exported, _with_decisions(parity, exported, job), plan, notes
            reasons.append(f"{name}: the graph failed the parity check: {parity.reasons[0]}.")
        note(f"{reasons[-1]} Trying {following}.")
    raise AssertionError("the last strategy returns or raises")


def _check(job: _Job, exported: Exported, path: Path, candidate: IsolatedRunner) -> ParityReport:
    with job.progress.stage("checking parity"):
        return prove(
            job.model,
            path,
            candidate,
            precision=job.precision,
            seed=job.seed,
            samples=job.samples,
            negated=bool(exported.traced_branches),
            options=job.proof,
            ranges=[item for spec in exported.inputs for item in spec.ranges],
            progress=job.progress,
        )


def _in_half(
    job: _Job, half: HalfOptions, exported: Exported, path: Path, prove_once: Callable[[], ParityReport]
) -> tuple[Exported, ParityReport, PrecisionPlan, tuple[str, ...]]:
    """Put the exported file in half precision, and check it."""
    from deploy.exporting.halve import halve, held  # imports what runs a graph node by node

    def attempt(safety: float) -> tuple[PrecisionPlan, tuple[str, ...]]:
        with job.progress.stage(f"searching for a plan ({half.precision})"):
            source = exported.path
            return halve(
                source, path, job.model, exported.inputs, half, seed=job.seed, safety=safety, progress=job.progress
            )

    plan, notes, parity = held(attempt, prove_once)
    opset = onnx_file.opset(onnx_file.load(path))
    return dataclasses.replace(exported, path=path, opset=opset), parity, plan, notes


def _prefix(error: DeployError, reasons: Sequence[str]) -> None:
    """Add the reasons why earlier strategies were not used to the message of an error."""
    error.message = " ".join([*reasons, error.message])
    error.args = (error.message,)


def _with_decisions(parity: ParityReport, exported: Exported, job: _Job) -> ParityReport:
    if not exported.traced_branches:
        return parity
    more = f" and {len(exported.traced_branches) - 1} more places" if len(exported.traced_branches) > 1 else ""
    negated = ", including negated ones," if can_negate(job.inputs) else ""
    note = (
        f"tracing recorded one branch of the control flow at {exported.traced_branches[0]}{more}; "
        f"the graph has no other, and parity is shown only for the branches that the probes{negated} take"
    )
    job.progress.warn(f"{note}.")
    return dataclasses.replace(parity, notes=(*parity.notes, note))


def _claimed(inputs: Sequence[TensorSpec], ranges: Sequence[SizeRange]) -> tuple[TensorSpec, ...]:
    """Return the inputs with the ranges that the check has found, in place of those of the exporter."""
    return with_ranges([dataclasses.replace(spec, ranges=()) for spec in inputs], ranges)


def _manifest(job: _Job, exported: Exported, parity: ParityReport, plan: PrecisionPlan | None) -> Manifest:
    return Manifest(
        model=job.model.name,
        slug=job.model.slug,
        format="onnx",
        precision=job.precision,
        files=payloads(exported.path, plan),
        inputs=_claimed(exported.inputs, parity.ranges),
        outputs=exported.outputs,
        weights=job.model.weights,
        preprocessing=job.model.preprocessing,
        labels=check_labels(job.model.labels, exported.outputs if job.labeled else (), job.model.name),
        task=job.model.task or named_task(exported.outputs),
        postprocessing=job.postprocessing.to_dict() if job.postprocessing else None,
        reference=job.model.reference,
        options={
            "strategy": exported.strategy,
            "opset": exported.opset,
            "sizes": dict(job.model.sizes),
            **(job.half.recorded(plan) if job.half and plan else {}),
            **with_changes({}, job.preprocess),
        },
        parity=parity.to_dict(),
    )
