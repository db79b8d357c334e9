"""Evidence for an engine on a machine that can run it: the parity check, or for INT8 a comparison of outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import UNPROVEN, Artifact, sha256
from deploy.core.backend import find_backend
from deploy.core.errors import BackendError, DeployError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.progress import Progress
from deploy.core.runner import Runner
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec
from deploy.exporting.domains import find_domains
from deploy.exporting.opened_file import match_inputs
from deploy.models.open import open_model, request_of
from deploy.parity.compare import compare
from deploy.parity.kinds import Domain
from deploy.parity.probes import SPOT_SAMPLES, Probe, make_probes, probes_at
from deploy.parity.repeated import Candidate
from deploy.parity.verdict import ParityReport
from deploy.quantization.data import CalibrationData
from deploy.quantization.evidence import Judge
from deploy.quantization.source import Source
from deploy.support.provenance import differ
from deploy.support.runtime import Runtime
from exporters.onnx_to_tensorrt import Profile


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineProof:
    """Result of running an engine.

    Attributes:
        verdict: verdict of the parity check; for INT8 ``measured``, or ``fail`` if a value is not finite; ``unproven``
            if its model is not known; None if the engine was not compared.
        reason: reason for the verdict, or for having none; empty if there is nothing to say.
        parity: the evidence, for the manifest.
    """

    verdict: str | None = None
    reason: str
    parity: Mapping[str, Any] | None = None


def prove_engine(
    engine: Artifact,
    source: Source,
    profiles: Sequence[Profile],
    data: CalibrationData | None,
    store: Store,
    progress: Progress,
) -> EngineProof:
    """Open an engine, whose manifest lies beside it, and compare its outputs; ``data`` is None except for INT8.

    Raises:
        BackendError: the engine was opened and cannot run.
        DeployError: the model cannot be loaded.
    """
    with IsolatedRunner("tensorrt") as runner:
        try:
            runner.open(engine.path)
        except DeployError as exc:
            progress.warn(exc.message)
            return EngineProof(reason=exc.message)
        if data is None:
            return _check_parity(engine, source, profiles, runner, store, progress)
    return _measure_int8(engine, source, profiles, data, progress)


def _check_parity(
    engine: Artifact,
    source: Source,
    profiles: Sequence[Profile],
    runner: IsolatedRunner,
    store: Store,
    progress: Progress,
) -> EngineProof:
    if source.manifest is None:
        return EngineProof(verdict=UNPROVEN, reason=f"the model of {source.path} is not known")
    if "module" in source.manifest.reference:
        return EngineProof(reason=f"{source.path} was exported from a module in memory, which cannot be built again")
    model = open_model(request_of(Artifact(path=source.path, manifest=source.manifest)), store, progress)
    if differ(source.manifest.weights.identity, model.weights):
        return EngineProof(reason="the model's weights have changed since the export")
    report = check_engine(model, runner, profiles, engine.manifest.precision, progress)
    evidence = {**report.to_dict(), "digest": sha256(engine.path)}
    return EngineProof(verdict=report.verdict, reason="; ".join(report.reasons), parity=evidence)


def check_engine(
    model: Model,
    runner: Candidate,
    profiles: Sequence[Profile],
    precision: str,
    progress: Progress,
    own: Callable[[str], Runner] | None = None,
) -> ParityReport:
    """Run the parity check of an open engine at sizes that its profiles allow.

    ``own`` returns the model's own runner of a precision, so that several checks can share its results.

    Raises:
        BackendError: the engine's inputs differ from the model's, or it cannot run.
    """
    rename, inputs, faults = match_inputs(model, runner.inputs)
    if faults:
        raise BackendError("; ".join(faults))
    domains, _ = find_domains(model, inputs)
    own = own or partial(PyTorchRunner, model)
    return compare(
        own("fp64"),
        own(precision),
        runner,
        fitting_probes(inputs, rename, model.sizes, profiles, domains),
        precision=precision,
        rename=rename,
        advance=progress.advance,
    )


def fitting_probes(
    inputs: Sequence[TensorSpec],
    rename: Mapping[str, str],
    sizes: Mapping[str, int],
    profiles: Sequence[Profile],
    domains: Mapping[str, Domain] | None = None,
) -> list[Probe]:
    """Return the usual probes that fit a profile, and more where none has its opt sizes or few of them fit.

    ``inputs`` have the model's names and the engine's dimensions; ``rename`` gives the engine's names. ``profiles`` are
    empty if every size is fixed. ``domains`` are the values of the inputs, see `make_probes`.
    """
    usual = make_probes(inputs, sizes, domains=domains)
    if not profiles:
        return usual
    probes = [probe for probe in usual if any(_fits(profile, rename, probe) for profile in profiles)]
    for profile in profiles:
        opt_sizes = {
            dim: size
            for spec in inputs
            if rename[spec.name] in profile
            for dim, size in zip(spec.shape, profile[rename[spec.name]].opt, strict=True)
            if isinstance(dim, str)
        }
        always = [probe for probe in probes if probe.sharing == "any" and _fits(profile, rename, probe)]
        has_opt = any(opt_sizes.items() <= probe.sizes.items() for probe in always)
        if not has_opt or sum(len(probe.groups) for probe in always) < SPOT_SAMPLES:
            probes += probes_at(inputs, opt_sizes)
    return probes


def _fits(profile: Profile, rename: Mapping[str, str], probe: Probe) -> bool:
    return all(
        low <= size <= high
        for name, value in probe.feeds.items()
        if rename[name] in profile
        for low, size, high in zip(profile[rename[name]].min, value.shape, profile[rename[name]].max, strict=True)
    )


def _measure_int8(
    engine: Artifact, source: Source, profiles: Sequence[Profile], data: CalibrationData, progress: Progress
) -> EngineProof:
    """Compare an INT8 engine with the float graph on the samples that the INT8 graph was evaluated on."""
    precision, target = engine.manifest.precision, str(engine.manifest.target)
    size, fixed = _batch(source.inputs[0], profiles)
    with IsolatedRunner("onnxruntime") as runner, progress.stage("evaluating the engine"):
        judge = Judge(runner, source, data.evidence, size=size, fixed=fixed, target=target)
        evidence = judge.measure(engine.path, progress, Runtime(backend=find_backend("tensorrt")))
    weaknesses = "; ".join(evidence.weaknesses())
    verdict, reason = ("poor", weaknesses) if weaknesses else ("measured", "")
    if not evidence.finite:
        verdict, reason = "fail", "output values are not finite"
    parity = evidence.parity(verdict, precision, data, source.verdict)
    return EngineProof(verdict=verdict, reason=reason, parity=parity)


def _batch(spec: TensorSpec, profiles: Sequence[Profile]) -> tuple[int, bool]:
    """Return the opt batch size of the first profile, and whether the engine takes no single sample."""
    if not profiles or spec.name not in profiles[0]:
        return int(spec.shape[0]), True
    shapes = profiles[0][spec.name]
    return shapes.opt[0], shapes.min[0] > 1
