"""The parity check of a file: probes, float64 reference, artifact in a process of its own, weights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.backends.torch.constants import computed_constants
from deploy.backends.torch.directed import exercised
from deploy.backends.torch.fastpath import fast_path_fault
from deploy.backends.torch.perturbed import PerturbedRunner
from deploy.backends.torch.reference import PyTorchRunner, baseline_of
from deploy.backends.torch.repeat import check_repeatable
from deploy.backends.torch.rounded import ROUNDED
from deploy.core.artifact import sha256
from deploy.core.backend import LOW_MEMORY_BYTES, RunSettings
from deploy.core.errors import BackendError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import HALVES, Model, state_tensors
from deploy.core.progress import Progress
from deploy.core.runner import Feeds, Runner
from deploy.core.tensors import SizeRange, TensorSpec, size_ranges, with_ranges
from deploy.exporting.accepted import find_sizes
from deploy.exporting.choices import MAX_BYTES, ChoiceJudge, ChoosingRunner
from deploy.exporting.coverage import SEARCH_STEPS, directed_probes, measure
from deploy.exporting.domains import find_domains
from deploy.exporting.original import OriginalFile
from deploy.models.untrained import statistic_names
from deploy.parity.compare import compare
from deploy.parity.coverage import Coverage, open_branches
from deploy.parity.groups import policy
from deploy.parity.probes import Probe, check_level, make_probe, make_probes
from deploy.parity.verdict import ParityReport
from deploy.parity.weights import NormTensors, WeightMatches, match_weights
from deploy.precision.bound import BoundedRunner, ordinary_of
from deploy.support import onnx_file

if TYPE_CHECKING:
    import onnx

    from deploy.exporting.samples import ProbeSamples

_MAX_FAST = 24
"""Number of probes that are run with and without PyTorch's fast path of attention layers."""

_MAX_FAST_FLOATS = 2
"""The same where all inputs are floats, so that none of them is a mask."""

_OPENED = 3
"""Number of probes that the runtime runs of a file in half precision."""

RUNTIME = "onnxruntime"
"""The runtime that may leave out conversions to half precision, so that files are run node by node in its place."""

_MAX_GRADIENTS = 3
"""Number of probes at which the gradients of weights that were not found are computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofOptions:
    """How thorough a parity check is, and what it must reach.

    Attributes:
        probes: ``quick``, ``standard`` or ``thorough``; or ``data`` for the real samples only.
        min_coverage: coverage in percent below which the verdict is inconclusive; None for no limit.
        min_sqnr: signal over noise in dB that half precision is held to, in place of PyTorch's own run in it; None for
            that run, or 40 dB where it is of no use.
        accept_unreached: let a traced or foreign file pass although no probe took one of its data-dependent branches.
    """

    probes: str = "standard"
    min_coverage: float | None = None
    accept_unreached: bool = False
    min_sqnr: float | None = None


def prove(
    model: Model,
    path: Path,
    candidate: IsolatedRunner,
    *,
    precision: str,
    seed: int,
    samples: ProbeSamples | None = None,
    negated: bool = False,
    ranges: Sequence[SizeRange] = (),
    find_weights: bool = True,
    options: ProofOptions | None = None,
    progress: Progress,
) -> ParityReport:
    """Check a file against a model: its outputs and, if it is an ONNX file, its weights.

    The inputs of the file correspond to the model's by name or by position. The candidate is a started process, which
    opens the file; the caller closes it. ``negated`` is for a file that was or may have been traced, see
    `deploy.parity.probes.make_probes`. ``ranges`` are the sizes that the file is claimed for.

    Returns:
        The report; it has no probes, and the verdict ``fail``, if the inputs of the file do not fit the model.

    Raises:
        BackendError: the model cannot be run, or the backend cannot open the file.
        BackendCrashedError: the process of the backend died.
        DataError: the samples do not fit the model.
        UsageError: the level is unknown, or it is ``data`` and there are no samples.
    """
    options = options or ProofOptions()
    check_level(options.probes, samples is not None)
    reference = PyTorchRunner(model, "fp64")
    files = [item for item in (path, path.with_name(f"{path.name}.data")) if item.is_file()]
    size = sum(item.stat().st_size for item in files)
    settings = RunSettings(low_memory=size >= LOW_MEMORY_BYTES, shared_cores=True)
    half = precision in HALVES
    runner = ROUNDED if half and candidate.backend.name == RUNTIME and path.suffix == ".onnx" else ""
    opened = candidate.backend.options(settings)
    candidate.open(path, runner=runner, **opened)
    rename, inputs, faults = match_inputs(model, candidate.inputs)
    if faults:
        return ParityReport(verdict="fail", reasons=tuple(faults), precision=precision, seed=seed)
    real = None
    if samples is not None:
        from deploy.exporting.samples import fit_samples  # imports readers of data sets

        real = fit_samples(samples, model, inputs)
    digest = sha256(path)
    graph = functools.cache(functools.partial(onnx_file.load, path))
    domains, notes = find_domains(model, inputs)
    baseline = baseline_of(model, precision, reference)

    def agrees_at(sizes: Mapping[str, int]) -> bool:
        probe = make_probe(inputs, {**model.sizes, **sizes}, seed=seed, domains=domains)
        own = PerturbedRunner(model, precision, layers=False) if precision == "fp32" else baseline
        try:
            report = compare(reference, own, candidate, [probe], precision=precision, rename=rename)
        except BackendError:
            if candidate.dead:
                raise
            return False
        return report.verdict != "fail"

    accepted = find_sizes(model, with_ranges(inputs, _with_one(ranges, agrees_at)), domains)
    probes = make_probes(
        accepted.inputs,
        model.sizes,
        seed=seed,
        samples=real,
        negated=negated,
        domains=domains,
        fresh=int(digest[:8], 16),
        level=options.probes,
    )
    repeatable = check_repeatable(model, min(probes, key=lambda probe: probe.values).feeds)
    probes += directed_probes(model, probes, SEARCH_STEPS[options.probes])
    original = OriginalFile(model, candidate.backend.name, settings) if OriginalFile.is_model(model) else None

    def judged(baseline: Runner) -> _Judged:
        """Compare on all probes; ``baseline`` is PyTorch's own run."""
        with contextlib.ExitStack() as stack:
            chooser = None
            if find_weights and size <= MAX_BYTES and isinstance(baseline, PyTorchRunner):
                choosing = ChoiceJudge(
                    model, graph(), path, candidate.backend.name, rename, opened, runner, baseline=baseline
                )
                chooser = stack.enter_context(choosing)
            judge = chooser.reference if chooser else reference
            bound = BoundedRunner(judge, baseline, options.min_sqnr, ordinary_of(probes)) if half else None
            ran: list[Probe] = []
            report = compare(
                judge,
                bound or baseline,
                candidate,
                probes,
                precision=precision,
                seed=seed,
                rename=rename,
                chooser=chooser,
                perturbed=None if precision == "fp64" else PerturbedRunner(model, precision),
                original=original,
                ran=ran,
                advance=progress.advance,
            )
        return _Judged(report=report, reference=judge, bound=bound, ran=ran)

    with contextlib.closing(original) if original else contextlib.nullcontext():
        found = judged(baseline)
        if found.report.verdict == "fail" and precision == "fp32":
            found = _rounded_at_one(model, found, judged)
    report, judge, bound, ran = found.report, found.reference, found.bound, found.ran
    if bound is not None:
        report = _in_half(report, bound, precision, bool(runner))
    if runner and precision == "fp16" and report.verdict == "pass":
        report = _in_runtime(report, candidate, path, opened, judge, baseline, ran[:_OPENED], rename)
    report = dataclasses.replace(
        report,
        ranges=tuple(item for item in size_ranges(accepted.inputs).values() if item.limited),
        refused=_merged(accepted.refused, report.refused),
        notes=(*report.notes, *notes, *accepted.notes, *repeatable),
    )
    fault = fast_path_fault(model, _fast_path_feeds(model, ran))
    if fault:
        report = dataclasses.replace(report, verdict="fail", reasons=(fault, *report.reasons))
    if not find_weights:
        return report
    matches = _match(model, judge.read, ran, graph(), path, precision)
    report = dataclasses.replace(report, weights=matches.summary(), digest=digest)
    if matches.faults:
        return dataclasses.replace(report, verdict="fail", reasons=(*report.reasons, *matches.faults))
    if report.verdict == "fail":
        return report
    used: set[str] = set()
    for probe in ran[:_MAX_GRADIENTS] if matches.listed else ():
        used |= exercised(model, probe.feeds, set(matches.listed))
    by_nodes = bool(runner) and precision == "bf16"
    shown = _conclusive(ran, report)
    coverage = measure(
        graph(), path, candidate, shown, rename, matches, used, low_memory=settings.low_memory, rounded=by_nodes
    )
    return _with_coverage(report, coverage, options, unproven=negated)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """A comparison on all probes: its report, what it was made with, and the probes that were run."""

    report: ParityReport
    reference: ChoosingRunner | PyTorchRunner
    bound: BoundedRunner | None
    ran: list[Probe]


def _rounded_at_one(model: Model, strict: _Judged, judged: Callable[[Runner], _Judged]) -> _Judged:
    """Judge a file that failed again by what a runtime's sigmoid may do to small results.

    Its error is absolute: a rounding of 1, also where the result is 1e-6. See `OtherRoundings`. An inconclusive
    comparison counts only if the file is within the limit.
    """
    own = PerturbedRunner(model, "fp32", layers=False)
    for probe in strict.ran[:1]:
        own.run(probe.feeds)
    if not own.roundings.used:
        return strict
    found = judged(own)
    beyond = (item for item in found.report.outputs if item.verdict == "inconclusive" and policy(item.group).decides)
    if found.report.verdict == "fail" or any(item.margin < 1.0 for item in beyond):
        return strict
    report = dataclasses.replace(found.report, notes=(*found.report.notes, AT_ONE))
    return dataclasses.replace(found, report=report)


AT_ONE = (
    "activations that are sums with 1 (sigmoid, SiLU, ELU) were allowed a rounding of 1: runtimes compute them with an "
    "error of about 1e-7, however small the result is"
)


def _conclusive(probes: Sequence[Probe], report: ParityReport) -> list[Probe]:
    """Return the probes whose comparison says something: what only the others reach is run, and not proven."""
    unclear = (item.group for item in report.outputs if item.verdict == "inconclusive")
    undecided = {group for group in unclear if not policy(group).decides}
    return [probe for probe in probes if not set(probe.groups) <= undecided]


def _in_half(report: ParityReport, bound: BoundedRunner, precision: str, rounded: bool) -> ParityReport:
    """Say how a file in half precision was run, and what it was held to."""
    notes = []
    if rounded:
        name = {"fp16": "float16", "bf16": "bfloat16"}[precision]
        notes.append(f"run node by node, with sums in float32 and every result rounded to {name}")
    if bound.replaced:
        why = "as asked" if bound.own is None else "since PyTorch's own run in half precision is of no use"
        names = ", ".join(sorted(bound.replaced))
        notes.append(f"{names}: held to {bound.min_sqnr:g} dB against float64, {why}")
    return dataclasses.replace(report, notes=(*report.notes, *notes))


def _in_runtime(
    report: ParityReport,
    candidate: IsolatedRunner,
    path: Path,
    opened: Mapping[str, Any],
    reference: Runner,
    baseline: Runner,
    probes: Sequence[Probe],
    rename: Mapping[str, str],
) -> ParityReport:
    """Run a few probes in the runtime itself, which opens the file or refuses it."""
    candidate.open(path, **opened)
    found = compare(reference, baseline, candidate, probes, precision="fp16", rename=rename)
    if found.verdict != "fail":
        return report
    reasons = tuple(f"{candidate.backend.title}: {reason}" for reason in found.reasons)
    return dataclasses.replace(report, verdict="fail", reasons=(*report.reasons, *reasons))


def _with_one(ranges: Sequence[SizeRange], agrees_at: Callable[[Mapping[str, int]], bool]) -> list[SizeRange]:
    """Allow a size of 1 where the file is right there: PyTorch excludes it wherever it could mean broadcasting."""
    return [
        dataclasses.replace(item, min=1) if item.min == 2 and item.multiple == 1 and agrees_at({item.dim: 1}) else item
        for item in ranges
    ]


def _fast_path_feeds(model: Model, probes: Sequence[Probe]) -> list[Feeds]:
    """Return the inputs on which the fast path of attention is tried; it differs at masked positions only."""
    masked = any(not spec.dtype.startswith("float") for spec in model.inputs)
    return [probe.feeds for probe in probes[: _MAX_FAST if masked else _MAX_FAST_FLOATS]]


def _match(
    model: Model, read: set[str], probes: Sequence[Probe], graph: onnx.ModelProto, path: Path, precision: str
) -> WeightMatches:
    tensors = {name: np.asarray(value.detach().numpy()) for name, value in state_tensors(model.module).items()}
    return match_weights(
        tensors,
        read,
        _norms(model, set(tensors)),
        graph,
        path,
        precision,
        constants=lambda: computed_constants(model, probes[0].feeds),
    )


def _with_coverage(report: ParityReport, coverage: Coverage, options: ProofOptions, *, unproven: bool) -> ParityReport:
    """Add the coverage; what was not reached can make a verdict ``pass`` inconclusive.

    ``unproven`` is a traced or foreign file, whose branches need not be those of the model.
    """
    reasons = []
    branches = open_branches(coverage)
    if unproven and branches and not options.accept_unreached:
        more = f" and {len(branches) - 1} more" if len(branches) > 1 else ""
        reasons.append(f"no probe took this branch of the graph: {branches[0]}{more}; --accept-unreached accepts this")
    if options.min_coverage is not None and coverage.percent < options.min_coverage:
        reasons.append(f"coverage is {coverage.percent:g} %, --min-coverage is {options.min_coverage:g} %")
    verdict = "inconclusive" if reasons and report.verdict == "pass" else report.verdict
    return dataclasses.replace(report, coverage=coverage, verdict=verdict, reasons=(*report.reasons, *reasons))


def _merged(*several: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    names = dict.fromkeys(name for item in several for name in item)
    return {name: tuple(sorted({size for item in several for size in item.get(name, ())})) for name in names}


def match_inputs(model: Model, given: Sequence[TensorSpec]) -> tuple[dict[str, str], list[TensorSpec], list[str]]:
    """Match the inputs of a file with those of its model, by name if all names agree, else by position.

    Returns:
        The file's input name for each of the model's; the specs to draw probes from, with the model's names and the
        file's dimensions; and the reasons why the inputs do not match.
    """
    by_name = {spec.name: spec for spec in given}
    named = all(spec.name in by_name for spec in model.inputs)
    if len(given) != len(model.inputs):
        return {}, [], [f"the file has {len(given)} inputs, the model {len(model.inputs)}"]
    pairs = [(own, by_name[own.name] if named else theirs) for own, theirs in zip(model.inputs, given, strict=True)]
    faults, specs, rename = [], [], {}
    symbols: dict[str, str] = {}
    for own, theirs in pairs:
        mismatch = f"input {theirs} of the file does not match {own} of the model"
        if len(own.shape) != len(theirs.shape) or own.dtype != theirs.dtype:
            faults.append(mismatch)
            continue
        for expected, dim in zip(own.shape, theirs.shape, strict=True):
            if isinstance(dim, str):
                symbols[dim] = expected if isinstance(expected, str) else dim
            elif isinstance(expected, int) and expected != dim:
                faults.append(mismatch)
        shape = tuple(symbols[dim] if isinstance(dim, str) else dim for dim in theirs.shape)
        spec = dataclasses.replace(own, shape=shape)
        for expected, dim in zip(own.shape, shape, strict=True):
            if isinstance(expected, int) and isinstance(dim, str):  # dynamic in the file only: probe the model's size
                spec = spec.bind({dim: expected})
        specs.append(spec)
        rename[own.name] = theirs.name
    return rename, specs, faults


def _norms(model: Model, present: set[str]) -> list[NormTensors]:
    norms = []
    for prefix, module in model.module.named_modules():
        statistics = statistic_names(module)
        if statistics is None:
            continue
        roles = {
            "mean": (statistics[0],),
            "var": (statistics[1],),
            "gamma": ("weight", "gamma"),
            "beta": ("bias", "beta"),
        }
        names = {}
        for role, attributes in roles.items():
            full = [f"{prefix}.{attribute}" for attribute in attributes if f"{prefix}.{attribute}" in present]
            if full:
                names[role] = full[0]
        norms.append(NormTensors(names=names, eps=float(getattr(module, "eps", 1e-5))))
    return norms
