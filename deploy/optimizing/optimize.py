"""``deploy optimize``: the fastest way to run a model that is still right."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deploy.bench.cells import choose_backends
from deploy.bench.elimination import ERROR, LOOKS
from deploy.bench.interference import conditions
from deploy.bench.statistics import Interval, plain_interval
from deploy.bench.timed_model import TimedModel
from deploy.core.brief import brief
from deploy.core.environment import machine, now, usable_cores, versions
from deploy.core.errors import BackendError, ExportError, UsageError
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.models.given import as_requests
from deploy.models.request import ModelRequest
from deploy.optimizing.bounds import MAX_DROP, MIN_SQNR, DeploymentBounds
from deploy.optimizing.candidates import CandidateFinder, Configuration, LeftOut, SearchSpace
from deploy.optimizing.race import Race, race
from deploy.support.deployment import Deployment, save
from deploy.support.lookup import name_of

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike

Objective = Literal["latency", "throughput", "size"]
OptimizeVerdict = Literal["pass", "fail", "inconclusive"]

BATCHES = {"latency": (1,), "throughput": (1, 4, 16), "size": (1,)}
"""Batch sizes that are tried where none is given."""

PRECISIONS = {"cpu": ("fp32", "int8"), "cuda": ("fp32", "fp16", "int8")}
MARGIN = 0.02
BUDGET_S = 600.0
ABOUT_THE_SIZE = 1.05
"""With the objective ``size``, files up to this many times as large as the smallest one are timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateResult:
    """What is known of one candidate.

    Attributes:
        state: ``winner``; ``equal`` to it within the margin; ``slower``; ``undecided``, neither is shown; ``failed``.
        ratio: time of a sample over that of the winner, with an interval that is valid for all candidates together.
        median_ns: latency of a call, with its 95 % interval.
        rounds: number of processes that were timed.
        bytes: size of the files.
    """

    name: str
    backend: str
    precision: str
    variant: str
    threads: int
    batch: int
    file: str | None
    bytes: int
    state: Literal["winner", "equal", "slower", "undecided", "failed"]
    ratio: Interval | None
    median_ns: Interval | None
    rounds: int
    evidence: Mapping[str, Any]
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class OptimizeReport:
    """Result of `optimize`.

    Attributes:
        verdict: ``pass``; ``fail`` if no candidate meets the bound on the latency; ``inconclusive`` if it is not shown
            that the choice does, or if the time was up before candidates could be told apart at all.
        reason: why the verdict is not ``pass``.
        candidates: the winner first, then by time.
        left_out: what was not timed, with the reason.
        speedup: time of PyTorch over that of the winner, per sample; None without PyTorch, or if it wins.
        bounds: the bounds, with the default on INT8 where none was given.
        rounds: number of rounds; each times every candidate that is left in a process of its own.
        deployment: the record of the choice.
        seconds: duration of the call.
    """

    model: str
    objective: Objective
    verdict: OptimizeVerdict
    reason: str
    candidates: tuple[CandidateResult, ...]
    left_out: tuple[LeftOut, ...]
    speedup: Interval | None
    bounds: DeploymentBounds
    margin: float
    rounds: int
    flags: Mapping[str, str]
    deployment: Path
    seconds: float

    @property
    def winner(self) -> CandidateResult:
        """The choice."""
        return self.candidates[0]

    @property
    def runner_up(self) -> CandidateResult | None:
        """The next best candidate with another backend or precision; None if there is none."""
        known = (self.winner.backend, self.winner.precision)
        others = (item for item in self.candidates[1:] if (item.backend, item.precision) != known and item.ratio)
        return next(others, None)

    def __repr__(self) -> str:
        gain = f"{self.speedup.value:.2f} x PyTorch" if self.speedup else None
        return brief(self, self.winner.name, gain, self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain: dict[str, Any] = to_plain(self)
        for row, item in zip(plain["candidates"], self.candidates, strict=True):
            row.update(ratio=plain_interval(item.ratio), median_ns=plain_interval(item.median_ns))
        return {
            **plain,
            "speedup": plain_interval(self.speedup),
            "deployment": str(self.deployment),
            "confidence": 1 - ERROR,
            "machine": machine(),
            "versions": versions(),
            "seconds": round(self.seconds, 3),
        }


def optimize(
    model: ModelLike,
    *,
    inputs: ExampleInputs | None = None,
    data: str | Path | None = None,
    objective: Objective = "latency",
    max_drop: float | None = None,
    min_sqnr: float | None = None,
    max_latency_ms: float | None = None,
    max_bytes: int | None = None,
    backends: Sequence[str] = (),
    precisions: Sequence[Literal["fp32", "fp16", "bf16", "int8"]] | None = None,
    batches: Sequence[int] | None = None,
    threads: Sequence[int] | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    sizes: Mapping[str, int] | None = None,
    variants: bool = True,
    effort: str = "medium",
    margin: float = MARGIN,
    budget_s: float = BUDGET_S,
    seed: int = 0,
    artifacts: str | Path | None = None,
    progress: Progress = SILENT,
) -> OptimizeReport:
    """Find the fastest backend, precision and options with which a model is still right.

    Files that are missing are exported and quantized. What fails its parity check, or breaks a bound, is not timed. The
    rest is timed in rounds, and a candidate leaves when it is shown to be slower (`deploy.bench.elimination`).

    Args:
        model: name of a model, an ONNX file, an artifact, a request, or a module in memory (without PyTorch rows).
        inputs: of a module in memory, see `deploy.ExampleInputs`.
        data: calibration data for INT8, see `deploy.quantize`; None takes the INT8 files that exist.
        objective: ``latency`` of a call; ``throughput``, the time per sample over several batch sizes; ``size`` of the
            files, then latency.
        max_drop: largest drop of top-1 accuracy, mAP or mIoU by INT8, in percentage points; needs labels, boxes or
            masks. Default without ``min_sqnr``: `MAX_DROP` if the data has them.
        min_sqnr: lowest SQNR of INT8, in dB. Default without any of them and ``max_drop``: `MIN_SQNR`.
        max_latency_ms: longest latency of a call.
        max_bytes: largest size of the files.
        backends: names of backends; none takes the installed default ones.
        precisions: None takes ``fp32`` and ``int8`` on a CPU, ``fp16`` too on a GPU.
        batches: batch sizes; several only with ``throughput``. None takes `BATCHES`.
        threads: numbers of threads to try; None takes all cores of this process.
        device: ``cpu`` or ``cuda``.
        sizes: sizes of symbolic dimensions other than the batch.
        variants: try other options of each backend.
        effort: of the quantization, see `deploy.quantize`.
        margin: share below which a difference counts as none.
        budget_s: no round starts after this many seconds; three rounds run in any case.
        seed: seed of the inputs and of the order.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages.

    Raises:
        UsageError: an argument is wrong, or would have no effect.
        BackendError: no candidate could be timed.
        DeployError: a model is unknown, or a file is damaged.
    """
    began = time.perf_counter()
    (request,) = as_requests([model], inputs)
    if objective != "throughput" and len(batches or ()) > 1:
        raise UsageError("several batch sizes are compared by what a sample takes: --objective throughput.")
    space = SearchSpace(
        backends=choose_backends(tuple(backends)),
        precisions=tuple(precisions or PRECISIONS[device]),
        batches=tuple(batches or BATCHES[objective]),
        threads=tuple(threads or (usable_cores(),)),
        device=device,
        sizes=dict(sizes or {}),
        variants=variants,
    )
    for option, value in (("--data", data), ("--max-drop", max_drop), ("--min-sqnr", min_sqnr)):
        if value is not None and "int8" not in space.precisions:
            raise UsageError(f"{option} has no effect without int8 among the precisions.")
    if max_drop is not None and data is None:
        raise UsageError("--max-drop is measured on data with labels: --data DIR; files that exist take --min-sqnr.")
    store = Store.at(artifacts)
    if request.weights != "auto" or request.arch or request.inputs or request.options:
        request = _exported(request, store, progress)
    for warning in conditions().warnings:
        progress.warn(warning)
    with tempfile.TemporaryDirectory(prefix="deploy-optimize-") as scratch:
        timed = TimedModel(request, store, Path(scratch), None, progress)
        bounds = DeploymentBounds(
            max_drop=max_drop, min_sqnr=min_sqnr, max_latency_ms=max_latency_ms, max_bytes=max_bytes
        )
        if max_drop is None and min_sqnr is None and "int8" in space.precisions:
            scored = data is not None and _has_truth(str(data), timed, store, progress)
            bounds = dataclasses.replace(
                bounds, max_drop=MAX_DROP if scored else None, min_sqnr=None if scored else MIN_SQNR
            )
        finder = CandidateFinder(
            timed,
            request,
            space,
            store,
            Path(scratch),
            data=None if data is None else str(data),
            effort=effort,
            bounds=bounds,
            seed=seed,
            progress=progress,
        )
        candidates = finder.find()
        if objective == "size":
            candidates = _smallest(candidates, finder.left_out)
        if not candidates:
            reasons = "; ".join(f"{item.name}: {item.reason}" for item in finder.left_out[:3])
            raise BackendError(f"{request.name}: there is nothing to time. {reasons}")
        plain = [item.name for item in candidates if _is_reference(item)]
        with progress.stage("timing"):
            found = race(
                candidates,
                keep=plain,
                max_latency_ms=max_latency_ms,
                margin=margin,
                seed=seed,
                deadline=began + budget_s,
                progress=progress,
            )
        return _report(request, objective, candidates, plain, found, finder.left_out, bounds, margin, store, began)


def _exported(request: ModelRequest, store: Store, progress: Progress) -> ModelRequest:
    """Export a model that the user describes, and return the request that finds its files."""
    from deploy.exporting.export import export_model

    made = export_model(request, artifacts=store.root, progress=progress)
    if made.parity.verdict != "pass":
        reasons = "; ".join(made.parity.reasons[:2])
        raise ExportError(f"{request.name}: the parity check of the export is {made.parity.verdict}: {reasons}")
    return ModelRequest(name=name_of(made.artifact), seed=request.seed)


def _has_truth(data: str, timed: TimedModel, store: Store, progress: Progress) -> bool:
    """Return whether the data has labels, boxes or masks."""
    from deploy.quantization.data import open_data
    from deploy.quantization.source import open_source

    source = open_source(str(timed.file("fp32", None).path), store, (), progress)
    with progress.stage("reading the data"):
        evidence = open_data(data, source, samples=2, skip_bad=False, progress=SILENT).evidence
    return evidence.labels is not None or evidence.pictures is not None


def _is_reference(candidate: Configuration) -> bool:
    plan = candidate.plan
    return candidate.is_plain and plan.backend.reference and plan.cell.precision == "fp32"


def _smallest(candidates: Sequence[Configuration], left_out: list[LeftOut]) -> list[Configuration]:
    """Return the candidates with the smallest files, and PyTorch to compare with."""
    sizes = {item.name: int(item.plan.about.get("bytes") or 0) for item in candidates}
    limit = ABOUT_THE_SIZE * min((size for size in sizes.values() if size), default=0)
    kept = [item for item in candidates if sizes[item.name] <= limit or _is_reference(item)]
    left_out += [
        LeftOut(name=item.name, reason=f"{sizes[item.name]:,} bytes, not among the smallest")
        for item in candidates
        if item not in kept
    ]
    return kept


def _report(
    request: ModelRequest,
    objective: Objective,
    candidates: Sequence[Configuration],
    plain: Sequence[str],
    found: Race,
    left_out: Sequence[LeftOut],
    bounds: DeploymentBounds,
    margin: float,
    store: Store,
    began: float,
) -> OptimizeReport:
    state = found.elimination
    if not state.left:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(found.failures.items())[:3])
        raise BackendError(f"{request.name}: no candidate could be timed. {reasons}")
    winner = state.winner()
    results = [_result(item, found, winner) for item in candidates]
    results.sort(key=lambda item: (item.state != "winner", item.ratio is None, item.ratio.value if item.ratio else 0.0))
    timed = [name for name in plain if name in found.medians]
    fastest = min(timed, key=lambda name: state.ratio(name, winner).value, default=None)
    speedup = None if fastest in (None, winner) else state.ratio(str(fastest), winner)
    verdict, reason = _verdict(results, state.rounds, bounds)
    best = next(item for item in candidates if item.name == winner)
    chosen, cell = best.plan, best.plan.cell
    deployment = save(
        store.root,
        cell.slug,
        Deployment(
            model=cell.model,
            file=None if chosen.path is None else chosen.path.name,
            sha256=cell.digest,
            backend=cell.backend,
            precision=cell.precision,
            variant=best.variant,
            changed=best.changed,
            options=chosen.options,
            threads=cell.threads,
            batch=cell.batch,
            device=cell.device,
            evidence=chosen.evidence or {},
            speedup=plain_interval(speedup),
            machine=cell.machine,
            versions=cell.versions,
            created=now(),
        ),
    )
    return OptimizeReport(
        model=cell.model,
        objective=objective,
        verdict=verdict,
        reason=reason,
        candidates=tuple(results),
        left_out=tuple(left_out),
        speedup=speedup,
        bounds=bounds,
        margin=margin,
        rounds=state.rounds,
        flags=found.flags,
        deployment=deployment,
        seconds=time.perf_counter() - began,
    )


def _result(candidate: Configuration, found: Race, winner: str) -> CandidateResult:
    name, plan, state = candidate.name, candidate.plan, found.elimination
    timed = name in found.medians and name not in found.failures
    return CandidateResult(
        name=name,
        backend=plan.cell.backend,
        precision=plan.cell.precision,
        variant=candidate.variant,
        threads=plan.cell.threads,
        batch=plan.cell.batch,
        file=None if plan.path is None else plan.path.name,
        bytes=int(plan.about.get("bytes") or 0),
        state=_state(name, found, winner),
        ratio=state.ratio(name, winner) if timed else None,
        median_ns=found.latency(name) if timed else None,
        rounds=len(found.medians.get(name, ())),
        evidence=plan.evidence or {},
        reason=found.failures.get(name, ""),
    )


def _state(name: str, found: Race, winner: str) -> Literal["winner", "equal", "slower", "undecided", "failed"]:
    if name in found.failures:
        return "failed"
    if name == winner:
        return "winner"
    if name in found.elimination.dropped:
        return "slower"
    return "equal" if found.elimination.equal(name, winner) else "undecided"


def _verdict(results: Sequence[CandidateResult], rounds: int, bounds: DeploymentBounds) -> tuple[OptimizeVerdict, str]:
    median = results[0].median_ns
    assert median is not None
    if bounds.max_latency_ms is not None and not median.high <= bounds.max_latency_ms * 1e6:
        times = f"{median.value / 1e6:.3g} ms ({median.low / 1e6:.3g} to {median.high / 1e6:.3g})"
        if median.value > bounds.max_latency_ms * 1e6:
            return "fail", f"no candidate is below {bounds.max_latency_ms:g} ms; the nearest takes {times}"
        return "inconclusive", f"{times} is not shown to be below {bounds.max_latency_ms:g} ms"
    undecided = [item.name for item in results if item.state == "undecided"]
    if undecided and rounds < LOOKS[-1] and len(undecided) + 1 == len([item for item in results if item.ratio]):
        return "inconclusive", f"the time was up after {rounds} rounds, before any candidate could be told apart"
    return "pass", ""
