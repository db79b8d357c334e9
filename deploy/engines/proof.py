"""The proof of an engine on a machine that runs it: against the model in float64, or, in eight bits, measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.artifact import Artifact, sha256
from deploy.core.backend import find_backend
from deploy.core.errors import ArtifactError, BackendError, DeployError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.core.tensors import TensorSpec
from deploy.engines.job import BuildJob
from deploy.exporting.prove import match_inputs
from deploy.models.open import open_model
from deploy.models.request import ModelRequest
from deploy.parity.compare import Candidate, compare
from deploy.parity.probes import SPOT_SAMPLES, Probe, make_probes, probes_at
from deploy.parity.verdict import ParityReport
from deploy.quantization.evidence import Judge
from deploy.support.runtime import Runtime
from exporters.onnx_to_tensorrt import Profile

MEASURED = "measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineProof:
    """What a run of an engine showed.

    Attributes:
        verdict: of the parity check, or ``measured`` in eight bits, ``fail`` there on values not finite; None where
            the engine was not run.
        why: the reason for the verdict, or for having none.
        parity: the evidence, for the manifest.
    """

    verdict: str | None
    why: str
    parity: Mapping[str, Any] | None


def prove_engine(job: BuildJob, artifact: Artifact, store: Store, progress: Progress) -> EngineProof:
    """Open an engine and hold it against the model it was made of.

    Args:
        job: the build.
        artifact: the engine, its manifest beside it.
        store: where the model's weights may be.
        progress: told how far it is.

    Raises:
        BackendError: it was opened, and failed to run.
        DeployError: the model cannot be built again.
    """
    with IsolatedRunner("tensorrt") as runner:
        try:
            runner.open(artifact.path)
        except DeployError as exc:
            progress.warn(exc.message)
            return EngineProof(verdict=None, why=exc.message, parity=None)
        if job.data is None:
            return _against_the_model(job, runner, artifact.path, store, progress)
    return _in_eight_bits(job, artifact, progress)


def _against_the_model(
    job: BuildJob, runner: IsolatedRunner, path: Path, store: Store, progress: Progress
) -> EngineProof:
    manifest = job.source.manifest
    if manifest is None:
        return EngineProof(verdict=None, why="nobody says which model the ONNX file was made of", parity=None)
    try:
        request = ModelRequest.from_dict(manifest.reference)
    except TypeError as exc:
        raise ArtifactError(f"{job.source.path}: its manifest does not say how its model is built.") from exc
    model = open_model(request, store, progress)
    if model.weights.sha256 != manifest.weights.sha256:
        return EngineProof(verdict=None, why="the model has other weights now than the export was made of", parity=None)
    report = check_engine(model, runner, job.options.profiles, job.request.precision, progress)
    evidence = {**report.to_dict(), "digest": sha256(path)}
    return EngineProof(verdict=report.verdict, why="; ".join(report.reasons), parity=evidence)


def check_engine(
    model: Model, runner: Candidate, profiles: Sequence[Profile], precision: str, progress: Progress
) -> ParityReport:
    """Judge an opened engine, at sizes that its profiles take.

    Args:
        model: the reference.
        runner: the engine.
        profiles: that it was built with.
        precision: ``fp32`` or ``fp16``.
        progress: told how far it is.

    Raises:
        BackendError: the engine takes other inputs than the model, or fails.
    """
    rename, inputs, faults = match_inputs(model, runner.inputs)
    if faults:
        raise BackendError("; ".join(faults))
    return compare(
        PyTorchRunner(model, "fp64"),
        PyTorchRunner(model, precision),
        runner,
        fitting_probes(inputs, rename, model.sizes, profiles),
        precision=precision,
        rename=rename,
        advance=progress.advance,
    )


def fitting_probes(
    inputs: Sequence[TensorSpec], rename: Mapping[str, str], sizes: Mapping[str, int], profiles: Sequence[Profile]
) -> list[Probe]:
    """The usual probes, as far as a profile takes them; more at the sizes of a profile that few of them fit.

    Args:
        inputs: with the model's names and the engine's dimensions.
        rename: the engine's names by the model's.
        sizes: the traced size of each symbol.
        profiles: of the engine; without any every size is fixed.
    """
    usual = make_probes(inputs, sizes)
    if not profiles:
        return usual
    kept = [probe for probe in usual if any(_takes(profile, rename, probe) for profile in profiles)]
    for profile in profiles:
        if sum(len(probe.groups) for probe in kept if _takes(profile, rename, probe)) < SPOT_SAMPLES:
            best = {
                dim: size
                for spec in inputs
                if rename[spec.name] in profile
                for dim, size in zip(spec.shape, profile[rename[spec.name]].opt, strict=True)
                if isinstance(dim, str)
            }
            kept += probes_at(inputs, best)
    return kept


def _takes(profile: Profile, rename: Mapping[str, str], probe: Probe) -> bool:
    return all(
        low <= size <= high
        for name, value in probe.feeds.items()
        if rename[name] in profile
        for low, size, high in zip(profile[rename[name]].min, value.shape, profile[rename[name]].max, strict=True)
    )


def _in_eight_bits(job: BuildJob, artifact: Artifact, progress: Progress) -> EngineProof:
    """Beside the float graph on the samples that the INT8 graph was judged on; measured, since nobody set bounds."""
    if job.data is None:
        raise BackendError("an engine in eight bits is judged on data.")
    samples = job.data.evidence
    size, whole = _batch(job)
    with IsolatedRunner("onnxruntime") as runner, progress.stage("judging the engine"):
        judge = Judge(runner, job.source.path, samples, size=size, whole=whole, target=job.library.name)
        evidence = judge.measure(artifact.path, progress, Runtime(backend=find_backend("tensorrt")))
    verdict = MEASURED if evidence.finite else "fail"
    parity = {
        "verdict": verdict,
        "kind": job.request.precision,
        "reference": "the float graph it was made from",
        "samples": dict(samples.summary),
        "apart": job.data.apart,
        **evidence.to_dict(),
    }
    return EngineProof(verdict=verdict, why="" if evidence.finite else "values are not finite", parity=parity)


def _batch(job: BuildJob) -> tuple[int, bool]:
    """Samples in a batch that the engine is best at, and whether it takes no smaller one."""
    name = job.source.inputs[0].name
    if not job.options.profiles or name not in job.options.profiles[0]:
        return int(job.source.inputs[0].shape[0]), True
    shapes = job.options.profiles[0][name]
    return shapes.opt[0], shapes.min[0] > 1
