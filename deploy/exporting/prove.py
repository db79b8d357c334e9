"""The parity check of a file: probes, float64 reference, artifact in a process of its own, weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import sha256
from deploy.core.backend import RunSettings
from deploy.core.errors import BackendError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.progress import Progress
from deploy.core.tensors import SizeRange, TensorSpec, size_ranges, with_ranges
from deploy.exporting.accepted import find_sizes
from deploy.exporting.domains import find_domains
from deploy.models.untrained import statistic_names
from deploy.parity.compare import compare
from deploy.parity.probes import check_level, make_probe, make_probes
from deploy.parity.verdict import ParityReport
from deploy.parity.weights import NormTensors, match_weights

if TYPE_CHECKING:
    from deploy.exporting.samples import ProbeSamples

LOW_MEMORY_BYTES = 2**30
"""Files of at least this size are opened with one copy of their weights."""


def prove(
    model: Model,
    path: Path,
    candidate: IsolatedRunner,
    *,
    precision: str,
    seed: int,
    samples: ProbeSamples | None = None,
    negated: bool = False,
    level: str = "standard",
    ranges: Sequence[SizeRange] = (),
    find_weights: bool = True,
    progress: Progress,
) -> ParityReport:
    """Check a file against a model: its outputs and, if it is an ONNX file, its weights.

    The inputs of the file correspond to the model's by name or by position. The candidate is a started process, which
    opens the file; the caller closes it. ``negated`` is for a file that was or may have been traced; it and ``level``
    are explained at `deploy.parity.probes.make_probes`. ``ranges`` are the sizes that the file is claimed for.

    Returns:
        The report; it has no probes, and the verdict ``fail``, if the inputs of the file do not fit the model.

    Raises:
        BackendError: the model cannot be run, or the backend cannot open the file.
        BackendCrashedError: the process of the backend died.
        DataError: the samples do not fit the model.
        UsageError: the level is unknown, or it is ``data`` and there are no samples.
    """
    check_level(level, samples is not None)
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
    digest = sha256(path)
    domains, notes = find_domains(model, inputs)
    baseline = PyTorchRunner(model, precision)

    def agrees_at(sizes: Mapping[str, int]) -> bool:
        probe = make_probe(inputs, {**model.sizes, **sizes}, seed=seed, domains=domains)
        try:
            return (
                compare(reference, baseline, candidate, [probe], precision=precision, rename=rename).verdict != "fail"
            )
        except BackendError:
            if candidate.dead:
                raise
            return False

    ranges = [
        dataclasses.replace(item, min=1) if item.min == 2 and item.multiple == 1 and agrees_at({item.dim: 1}) else item
        for item in ranges  # PyTorch assumes a size of at least 2 wherever 1 could mean broadcasting
    ]
    accepted = find_sizes(model, with_ranges(inputs, ranges), domains)
    probes = make_probes(
        accepted.inputs,
        model.sizes,
        seed=seed,
        samples=real,
        negated=negated,
        domains=domains,
        fresh=int(digest[:8], 16),
        level=level,
    )
    report = compare(
        reference,
        baseline,
        candidate,
        probes,
        precision=precision,
        seed=seed,
        rename=rename,
        advance=progress.advance,
    )
    report = dataclasses.replace(
        report,
        ranges=tuple(item for item in size_ranges(accepted.inputs).values() if item.limited),
        refused=_merged(accepted.refused, report.refused),
        notes=(*report.notes, *notes, *accepted.notes),
    )
    if not find_weights:
        return report
    tensors = {name: np.asarray(value.detach().numpy()) for name, value in model.module.state_dict().items()}
    matches = match_weights(tensors, reference.read, _norms(model, set(tensors)), path, precision)
    return dataclasses.replace(report, weights=matches.summary(), digest=digest)


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
