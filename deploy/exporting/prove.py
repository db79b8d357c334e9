"""The parity check of a file: probes, float64 reference, artifact in a process of its own, weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import sha256
from deploy.core.backend import RunSettings
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model, state_tensors
from deploy.core.progress import Progress
from deploy.core.tensors import TensorSpec
from deploy.models.untrained import statistic_names
from deploy.parity.compare import compare
from deploy.parity.probes import make_probes
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
    find_weights: bool = True,
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
    report = compare(
        reference,
        PyTorchRunner(model, precision),
        candidate,
        probes,
        precision=precision,
        seed=seed,
        rename=rename,
        advance=progress.advance,
    )
    if not find_weights:
        return report
    tensors = {name: np.asarray(value.numpy()) for name, value in state_tensors(model.module).items()}
    matches = match_weights(tensors, reference.read, _norms(model, set(tensors)), path, precision)
    return dataclasses.replace(report, weights=matches.summary(), digest=sha256(path))


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
