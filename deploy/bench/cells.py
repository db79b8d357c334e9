"""Planned cells: one model x backend x precision x batch size each, with what is known of its parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.bench.records import Cell
from deploy.core import registry
from deploy.core.artifact import UNPROVEN, Artifact
from deploy.core.backend import ENGINE, ONNX, Backend, RunSettings, backends, find_backend
from deploy.core.environment import machine
from deploy.core.errors import UnknownNameError, UsageError
from deploy.core.extras import require
from deploy.core.tensors import TensorSpec, batch_dimension, symbols
from deploy.support.cuda_driver import gpus
from deploy.support.provenance import Stale

REFERENCE = "reference"
PASSED = ("pass", REFERENCE, "measured", UNPROVEN)
"""Verdicts with which a latency may be shown; ``measured`` is INT8 without a bound set by the user, and ``unproven``
a file whose model is not known."""

NO_MODEL = {"verdict": UNPROVEN, "reasons": ["no model is known to compare the file with"], "by": ""}
"""Evidence of a file whose manifest names no model."""

ELSEWHERE = "measured elsewhere"
"""Verdict of an INT8 file whose evidence is that of another runtime or device."""

LATENCY = "latency"
SCENARIOS = "deploy.bench.scenarios"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """A cell that can be timed.

    Attributes:
        path: file to open; None where the backend runs the PyTorch model.
        model: request that rebuilds the model with exactly these weights, for a backend that runs it.
        options: options of the backend's runner.
        evidence: parity evidence; None where it must be checked in the process that is timed.
        about: further fields of the record.
        stale: why the file is stale; None if it is not.
    """

    cell: Cell
    path: Path | None
    model: Mapping[str, Any] | None
    options: Mapping[str, Any]
    inputs: tuple[TensorSpec, ...]
    evidence: Mapping[str, Any] | None
    about: Mapping[str, Any] = field(default_factory=dict)
    stale: Stale | None = None

    @property
    def backend(self) -> Backend:
        """The backend that runs it."""
        return find_backend(self.cell.backend)

    @property
    def passed(self) -> bool:
        """Whether its latency may be shown."""
        return self.evidence is not None and self.evidence["verdict"] in PASSED

    @property
    def refusal(self) -> str:
        """Why its latency may not be shown."""
        evidence = self.evidence or {"verdict": UNPROVEN, "reasons": []}
        reasons = "; ".join(evidence.get("reasons", [])[:2])
        return f"not timed, parity {evidence['verdict']}" + (f": {reasons}" if reasons else "")


def choose_backends(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the backends to time: the named ones, else every installed default backend.

    Raises:
        MissingPackageError: a named backend is not installed.
    """
    for name in names:
        find_backend(name).require()
    return names or tuple(item.name for item in backends().values() if item.default and item.installed)


def scenarios() -> tuple[str, ...]:
    """Return the names of all scenarios."""
    return (LATENCY, *registry.names(SCENARIOS))


def check_scenario(name: str, also: Sequence[str] = ()) -> None:
    """Check that a scenario exists, or is one of others, and that the package it needs is installed."""
    known = (*scenarios(), *also)
    if name not in known:
        raise UnknownNameError("scenario", name, known, f"known: {', '.join(known)}")
    if name == "loadgen":
        require("loadgen")


def fingerprint(device: str, kind: str | None = None) -> dict[str, Any]:
    """Return the parts of the machine's description that decide latencies, with its kind in a sweep over several."""
    found = {key: value for key, value in machine().items() if key in ("cpu", "cores", "architecture")}
    gpu = {"gpu": ", ".join(item.name for item in gpus())} if device == "cuda" else {}
    return {**found, **gpu, **({"kind": kind} if kind else {})}


def sizes_at(
    inputs: tuple[TensorSpec, ...], batch: int, recorded: Mapping[str, int], given: Mapping[str, int]
) -> dict[str, int]:
    """Return the size of every symbolic dimension for a batch size.

    Args:
        inputs: of the file or model.
        batch: size of the batch, see `deploy.core.tensors.batch_dimension`.
        recorded: sizes of other dimensions, from the manifest or the model.
        given: sizes that the user gave, which come first; one for the first dimension says that it is no batch.

    Raises:
        UsageError: another batch than the fixed one, or a dimension without a size.
        InputSpecError: a size that the file excludes.
    """
    found = symbols(inputs)
    dimension = batch_dimension(inputs)
    if "batch" in given:
        raise UsageError(f"--size batch={given['batch']}: use --batch {given['batch']}.")
    if dimension is None or dimension in given:
        fixed = 1 if dimension or not inputs or not inputs[0].shape else inputs[0].shape[0]
        if batch != fixed:
            raise UsageError(
                f"the batch size is fixed at {fixed}: use --batch {fixed}, or export the model with --dynamic batch."
            )
    sizes = {**recorded, **({dimension: batch} if dimension else {}), **given}
    missing = [name for name in found if name not in sizes]
    if missing:
        options = " ".join(f"--size {name}=16" for name in missing)
        raise UsageError(f"no size is known for {', '.join(map(repr, missing))}; give sizes, such as {options}.")
    sizes = {name: sizes[name] for name in found}
    for spec in inputs:
        spec.concrete(sizes)  # refuses a size that the file excludes
    return sizes


def check_sizes(sizes: Mapping[str, int], plans: Sequence[PlannedCell]) -> None:
    """Refuse a size that no planned cell uses.

    Raises:
        UsageError: no input has such a dimension.
    """
    known = dict.fromkeys(name for plan in plans for name in plan.cell.sizes)
    for name, size in sizes.items():
        if plans and name not in known:
            dimensions = f"the dimensions are {', '.join(known)}" if known else "all dimensions are fixed"
            raise UsageError(f"--size {name}={size}: no input has the dimension {name!r}; {dimensions}.")


def evidence_of(artifact: Artifact, backend: Backend, settings: RunSettings) -> dict[str, Any] | None:
    """Return the manifest's parity evidence (``verdict``, ``reasons``, ``by``); None where it must be checked first.

    That of an engine counts on the GPU that it was checked on, and not for CUDA graphs. INT8 cannot be checked here.
    """
    proof, manifest = artifact.manifest.parity, artifact.manifest
    elsewhere = _elsewhere(artifact, settings)
    if proof is None or elsewhere:
        if manifest.reference and manifest.precision == "int8":
            reason = f"the INT8 evidence was not measured {elsewhere or 'at all'}"
            return {"verdict": ELSEWHERE, "reasons": [reason], "by": "quantize"}
        return None if manifest.reference else NO_MODEL
    verdict = {"verdict": proof["verdict"], "reasons": list(proof.get("reasons", ()))}
    if manifest.format == ENGINE:
        return {**verdict, "by": "trt build, on TensorRT"}
    if manifest.precision == "int8":
        outputs = [{key: item[key] for key in ("output", "sqnr_db", "agreement")} for item in proof["outputs"]]
        if proof.get("runtime") == backend.title:
            return {**verdict, "by": f"quantize, on {backend.title}", "outputs": outputs}
        return {
            "verdict": ELSEWHERE,
            "reasons": [f"the INT8 evidence was measured on {proof.get('runtime')}"],
            "by": "quantize",
        }
    if ONNX not in backend.default_for or not backend.versions().items() <= manifest.versions.items():
        return None
    return {**verdict, "by": f"export, on {backend.title}", "margin": proof.get("margin")}


def _elsewhere(artifact: Artifact, settings: RunSettings) -> str:
    """Return on what a file was not checked although it runs there; empty if the recorded check was of the same."""
    manifest = artifact.manifest
    if manifest.format != ENGINE:
        return "" if settings.device == "cpu" else f"on {settings.device}"
    here, checked = next(iter(gpus()), None), manifest.options.get("gpu") or {}
    if here is None or (checked.get("name"), checked.get("capability")) != (here.name, here.capability):
        return f"on {here.name}" if here else "on this machine"
    return "with CUDA graphs" if settings.cuda_graph else ""
