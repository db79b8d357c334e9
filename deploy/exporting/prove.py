"""The parity check of a file: probes, float64 reference, artifact in a process of its own, weights."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.backends.torch.constants import computed_constants
from deploy.backends.torch.directed import exercised
from deploy.backends.torch.perturbed import PerturbedRunner
from deploy.backends.torch.reference import PyTorchRunner, baseline_of
from deploy.backends.torch.repeat import check_repeatable
from deploy.core.artifact import sha256
from deploy.core.backend import RunSettings
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.progress import Progress
from deploy.core.tensors import TensorSpec
from deploy.exporting.choices import MAX_BYTES, ChoiceJudge
from deploy.exporting.coverage import SEARCH_STEPS, directed_probes, measure
from deploy.models.untrained import statistic_names
from deploy.parity.compare import compare
from deploy.parity.coverage import Coverage, open_branches
from deploy.parity.probes import Probe, make_probes
from deploy.parity.verdict import ParityReport
from deploy.parity.weights import NormTensors, WeightMatches, match_weights

if TYPE_CHECKING:
    from deploy.exporting.samples import ProbeSamples

LOW_MEMORY_BYTES = 2**30
"""Files of at least this size are opened with one copy of their weights."""

_MAX_GRADIENTS = 3
"""Number of probes at which the gradients of weights that were not found are computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofOptions:
    """How thorough a parity check is, and what it must reach.

    Attributes:
        probes: ``quick``, ``standard`` or ``thorough``.
        min_coverage: coverage in percent below which the verdict is inconclusive; None for no limit.
        accept_unreached: let a traced or foreign file pass although no probe took one of its data-dependent branches.
    """

    probes: str = "standard"
    min_coverage: float | None = None
    accept_unreached: bool = False


def prove(
    model: Model,
    path: Path,
    candidate: IsolatedRunner,
    *,
    precision: str,
    seed: int,
    samples: ProbeSamples | None = None,
    negated: bool = False,
    find_weights: bool = True,
    options: ProofOptions | None = None,
    progress: Progress,
) -> ParityReport:
    """Check a file against a model: its outputs and, if it is an ONNX file, its weights.

    The inputs of the file correspond to the model's by name or by position. The candidate is a started process, which
    opens the file; the caller closes it. ``negated`` is for a file that was or may have been traced, see
    `deploy.parity.probes.make_probes`.

    Returns:
        The report; it has no probes, and the verdict ``fail``, if the inputs of the file do not fit the model.

    Raises:
        BackendError: the model cannot be run, or the backend cannot open the file.
        BackendCrashedError: the process of the backend died.
        DataError: the samples do not fit the model.
    """
    options = options or ProofOptions()
    reference = PyTorchRunner(model, "fp64")
    files = [item for item in (path, path.with_name(f"{path.name}.data")) if item.is_file()]
    size = sum(item.stat().st_size for item in files)
    settings = RunSettings(low_memory=size >= LOW_MEMORY_BYTES, shared_cores=True)
    candidate.open(path, **candidate.backend.options(settings))
    rename, inputs, faults = match_inputs(model, candidate.inputs)
    if faults:
        return ParityReport(verdict="fail", reasons=tuple(faults), precision=precision, seed=seed)
    real = None
    if samples is not None:
        from deploy.exporting.samples import fit_samples  # imports readers of data sets

        real = fit_samples(samples, model, inputs)
    probes = make_probes(inputs, model.sizes, seed=seed, samples=real, negated=negated)
    smallest = min(probes, key=lambda probe: sum(value.size for value in probe.feeds.values()))
    notes = check_repeatable(model, smallest.feeds)
    probes += directed_probes(model, probes, SEARCH_STEPS[options.probes])
    baseline = baseline_of(model, precision, reference)
    judged = find_weights and size <= MAX_BYTES and precision != "fp64"
    with contextlib.ExitStack() as stack:
        chooser = None
        if judged:
            opened = candidate.backend.options(settings)
            chooser = stack.enter_context(ChoiceJudge(model, path, candidate.backend.name, precision, rename, opened))
        report = compare(
            chooser.reference if chooser else reference,
            chooser.baseline if chooser else baseline,
            candidate,
            probes,
            precision=precision,
            seed=seed,
            rename=rename,
            chooser=chooser,
            perturbed=None if precision == "fp64" else PerturbedRunner(model, precision),
            advance=progress.advance,
        )
    report = dataclasses.replace(report, notes=(*report.notes, *notes))
    if not find_weights:
        return report
    matches = _match(model, chooser.reference.read if chooser else reference.read, probes, path, precision)
    report = dataclasses.replace(report, weights=matches.summary(), digest=sha256(path))
    if matches.faults:
        return dataclasses.replace(report, verdict="fail", reasons=(*report.reasons, *matches.faults))
    if report.verdict == "fail":
        return report
    used: set[str] = set()
    for probe in probes[:_MAX_GRADIENTS] if matches.listed else ():
        used |= exercised(model, probe.feeds, set(matches.listed))
    coverage = measure(path, probes, rename, matches, used)
    return _with_coverage(report, coverage, options, unproven=negated)


def _match(model: Model, read: set[str], probes: Sequence[Probe], path: Path, precision: str) -> WeightMatches:
    tensors = {name: np.asarray(value.detach().numpy()) for name, value in model.module.state_dict().items()}
    return match_weights(
        tensors,
        read,
        _norms(model, set(tensors)),
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
        spec = TensorSpec(name=own.name, dtype=own.dtype, shape=shape, bounds=own.bounds)
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
