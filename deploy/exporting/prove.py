"""The parity check of a file: probes, float64 reference, artifact in a process of its own, weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.backends.torch.constants import computed_constants
from deploy.backends.torch.directed import exercised
from deploy.backends.torch.fastpath import fast_path_fault
from deploy.backends.torch.perturbed import PerturbedRunner
from deploy.backends.torch.reference import PyTorchRunner, baseline_of
from deploy.backends.torch.repeat import check_repeatable
from deploy.core.errors import BackendError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model, state_tensors
from deploy.core.progress import Progress
from deploy.core.runner import Feeds
from deploy.core.tensors import SizeRange, size_ranges, with_ranges
from deploy.exporting.accepted import find_sizes
from deploy.exporting.comparison import Comparison, JudgedFile
from deploy.exporting.coverage import SEARCH_STEPS, directed_probes, measure
from deploy.exporting.domains import find_domains
from deploy.exporting.final_sigmoid import before_final_sigmoid
from deploy.exporting.opened_file import OpenedFile
from deploy.models.untrained import statistic_names
from deploy.parity.compare import compare
from deploy.parity.coverage import Coverage, open_branches
from deploy.parity.groups import policy
from deploy.parity.probes import Probe, check_level, make_probe, make_probes
from deploy.parity.verdict import ParityReport
from deploy.parity.weights import NormTensors, WeightMatches, match_weights

if TYPE_CHECKING:
    import onnx

    from deploy.exporting.samples import ProbeSamples

_MAX_FAST = 24
"""Number of probes that are run with and without PyTorch's fast path of attention layers."""

_MAX_FAST_FLOATS = 2
"""The same where all inputs are floats, so that none of them is a mask."""

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
        device: where the backend runs the file, ``cpu`` or ``cuda``.
    """

    probes: str = "standard"
    min_coverage: float | None = None
    accept_unreached: bool = False
    min_sqnr: float | None = None
    device: str = "cpu"


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
    file = OpenedFile.open(path, candidate, model, precision, options.device)
    if file.faults:
        return ParityReport(verdict="fail", reasons=tuple(file.faults), precision=precision, seed=seed)
    real = None
    if samples is not None:
        from deploy.exporting.samples import fit_samples  # imports readers of data sets

        real = fit_samples(samples, model, file.inputs)
    domains, notes = find_domains(model, file.inputs)
    baseline = baseline_of(model, precision, reference)

    def agrees_at(sizes: Mapping[str, int]) -> bool:
        probe = make_probe(file.inputs, {**model.sizes, **sizes}, seed=seed, domains=domains)
        own = PerturbedRunner(model, precision, layers=False) if precision == "fp32" else baseline
        try:
            report = compare(reference, own, candidate, [probe], precision=precision, rename=file.rename)
        except BackendError:
            if candidate.dead:
                raise
            return False
        return report.verdict != "fail"

    accepted = find_sizes(model, with_ranges(file.inputs, _with_one(ranges, agrees_at)), domains)
    probes = make_probes(
        accepted.inputs,
        model.sizes,
        seed=seed,
        samples=real,
        negated=negated,
        domains=domains,
        fresh=int(file.digest[:8], 16),
        level=options.probes,
    )
    repeatable = check_repeatable(model, min(probes, key=lambda probe: probe.values).feeds)
    probes += directed_probes(model, probes, SEARCH_STEPS[options.probes])
    comparison = Comparison(
        model=model,
        file=file,
        precision=precision,
        seed=seed,
        probes=probes,
        reference=reference,
        baseline=baseline,
        look_behind=find_weights,
        min_sqnr=options.min_sqnr,
        progress=progress,
    )
    judged = before_final_sigmoid(comparison, comparison.judge())
    report = dataclasses.replace(
        judged.report,
        ranges=tuple(item for item in size_ranges(accepted.inputs).values() if item.limited),
        refused=_merged(accepted.refused, judged.report.refused),
        notes=(*judged.report.notes, *notes, *accepted.notes, *repeatable),
    )
    fault = fast_path_fault(model, _fast_path_feeds(model, judged.ran))
    if fault:
        report = dataclasses.replace(report, verdict="fail", reasons=(fault, *report.reasons))
    return _with_weights(report, judged, comparison, options, unproven=negated) if find_weights else report


def _with_weights(
    report: ParityReport, judged: JudgedFile, comparison: Comparison, options: ProofOptions, *, unproven: bool
) -> ParityReport:
    """Look for the model's weights in the file and, unless it fails, measure what the probes reached."""
    model, file, ran = comparison.model, comparison.file, judged.ran
    matches = _match(model, judged.reference.read, ran, file.graph, file.path, comparison.precision)
    report = dataclasses.replace(report, weights=matches.summary(), digest=file.digest)
    if matches.faults:
        return dataclasses.replace(report, verdict="fail", reasons=(*report.reasons, *matches.faults))
    if report.verdict == "fail":
        return report
    used: set[str] = set()
    for probe in ran[:_MAX_GRADIENTS] if matches.listed else ():
        used |= exercised(model, probe.feeds, set(matches.listed))
    coverage = measure(
        file.graph,
        file.path,
        file.candidate,
        _conclusive(ran, report),
        file.rename,
        matches,
        used,
        low_memory=file.settings.low_memory,
        rounded=comparison.precision == "bf16",
    )
    return _with_coverage(report, coverage, options, unproven=unproven)


def _conclusive(probes: Sequence[Probe], report: ParityReport) -> list[Probe]:
    """Return the probes whose comparison says something: what only the others reach is run, and not proven."""
    unclear = (item.group for item in report.outputs if item.verdict == "inconclusive")
    undecided = {group for group in unclear if not policy(group).decides}
    return [probe for probe in probes if not set(probe.groups) <= undecided]


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
