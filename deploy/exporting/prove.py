"""The parity check as export and check both run it: probes, float64 reference, isolated candidate, weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import sha256
from deploy.core.backend import RunSettings
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.progress import Progress
from deploy.core.tensors import TensorSpec
from deploy.exporting.samples import ProbeSamples, fit_samples
from deploy.models.untrained import statistic_names
from deploy.parity.compare import compare
from deploy.parity.probes import make_probes
from deploy.parity.verdict import ParityReport
from deploy.parity.weights import NormTensors, account

LEAN_BYTES = 2**30
"""Files from this size on are opened with one copy of their weights."""


def prove(
    model: Model,
    path: Path,
    candidate: IsolatedRunner,
    *,
    precision: str = "fp32",
    seed: int = 0,
    samples: ProbeSamples | None = None,
    mirrored: bool = False,
    progress: Progress,
) -> ParityReport:
    """Open ``path`` in the candidate's process and judge it against the model.

    Args:
        model: the reference.
        path: an ONNX file whose inputs correspond to the model's, by name or by position.
        candidate: a started worker; the caller closes it.
        precision: what the file computes in.
        seed: of the probes.
        samples: real samples: arrays by the model's input names, or images.
        mirrored: see `deploy.parity.probes.make_probes`; for a file that was, or may have been, traced.
        progress: told how far it is.

    Raises:
        BackendError: the model cannot be run, or the runtime refuses the file.
        BackendCrashedError: the runtime's process died.
    """
    reference = PyTorchRunner(model, "fp64")
    report = check_outputs(
        reference,
        path,
        candidate,
        precision=precision,
        seed=seed,
        samples=samples,
        mirrored=mirrored,
        progress=progress,
    )
    if not report.probes:
        return report
    tensors = {name: np.asarray(value.detach().numpy()) for name, value in model.module.state_dict().items()}
    accounts = account(tensors, reference.read, _norms(model, set(tensors)), path, precision)
    return dataclasses.replace(report, weights=accounts.summary(), digest=sha256(path))


def check_outputs(
    reference: PyTorchRunner,
    path: Path,
    candidate: IsolatedRunner,
    *,
    precision: str = "fp32",
    seed: int = 0,
    samples: ProbeSamples | None = None,
    mirrored: bool = False,
    progress: Progress,
) -> ParityReport:
    """As `prove`, of a file in whatever format the candidate's backend opens; its weights are not looked for.

    Args:
        reference: the model in float64.
        path: the file.
        candidate: a started worker; the caller closes it.
        precision: what the file computes in.
        seed: of the probes.
        samples: real samples.
        mirrored: as for `prove`.
        progress: told how far it is.

    Returns:
        The report; one without probes where the inputs do not fit.

    Raises:
        BackendError: the model cannot be run, or the runtime refuses the file.
    """
    model = reference.model
    candidate.open(
        path, **candidate.backend.options(RunSettings(low_memory=_size(path) >= LEAN_BYTES, shared_cores=True))
    )
    rename, inputs, faults = match_inputs(model, candidate.inputs)
    real = fit_samples(samples, model, inputs)
    probes = make_probes(inputs, model.sizes, seed=seed, samples=real, mirrored=mirrored)
    baseline = PyTorchRunner(model, precision)
    if faults:
        return _refused(faults, precision, seed)
    return compare(
        reference,
        baseline,
        candidate,
        probes,
        precision=precision,
        seed=seed,
        rename=rename,
        advance=progress.advance,
    )


def _size(path: Path) -> int:
    """Bytes of a file and of its external data."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def _refused(faults: list[str], precision: str, seed: int) -> ParityReport:
    return ParityReport(
        verdict="fail",
        reasons=tuple(faults),
        precision=precision,
        outputs=(),
        dynamic={},
        probes=0,
        samples=0,
        seed=seed,
    )


def match_inputs(model: Model, given: Sequence[TensorSpec]) -> tuple[dict[str, str], list[TensorSpec], list[str]]:
    """The file's input for each of the model's, and the probes' specs: the model's names, the file's dimensions."""
    by_name = {spec.name: spec for spec in given}
    named = all(spec.name in by_name for spec in model.inputs)
    if len(given) != len(model.inputs):
        faults = [f"the file takes {len(given)} inputs, the model {len(model.inputs)}"]
        return {}, [], faults
    pairs = [(own, by_name[own.name] if named else theirs) for own, theirs in zip(model.inputs, given, strict=True)]
    faults, specs, rename = [], [], {}
    known: dict[str, str] = {}
    for own, theirs in pairs:
        if len(own.shape) != len(theirs.shape) or own.dtype != theirs.dtype:
            faults.append(f"input {theirs} of the file does not fit {own} of the model")
            continue
        for mine, found in zip(own.shape, theirs.shape, strict=True):
            if isinstance(found, str):
                known[found] = mine if isinstance(mine, str) else found
            elif isinstance(mine, int) and mine != found:
                faults.append(f"input {theirs} of the file does not fit {own} of the model")
        shape = tuple(known[dim] if isinstance(dim, str) else dim for dim in theirs.shape)
        specs.append(TensorSpec(name=own.name, dtype=own.dtype, shape=shape, bounds=own.bounds))
        rename[own.name] = theirs.name
        for mine, dim in zip(own.shape, shape, strict=True):
            if isinstance(mine, int) and isinstance(dim, str):  # the file claims more than the model: probe its size
                specs[-1] = specs[-1].bind({dim: mine})
    return rename, specs, faults


def _norms(model: Model, present: set[str]) -> list[NormTensors]:
    """The model's batch normalizations, with the names of their tensors by role."""
    found = []
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
        found.append(NormTensors(prefix=prefix, names=names, eps=float(getattr(module, "eps", 1e-5))))
    return found
