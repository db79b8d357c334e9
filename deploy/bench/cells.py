"""Planned cells: one model x backend x precision x batch size each, with what is known of its parity."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.bench.records import Cell
from deploy.core import registry
from deploy.core.artifact import Artifact
from deploy.core.backend import ENGINE, ONNX, Backend, backends, find_backend
from deploy.core.environment import machine
from deploy.core.errors import MissingPackageError, UnknownNameError, UsageError
from deploy.core.tensors import TensorSpec, symbols
from deploy.support.cuda_driver import gpus

REFERENCE = "reference"
PASSED = ("pass", REFERENCE, "measured")
"""Verdicts with which a latency may be shown; ``measured`` is INT8 without a bound set by the user."""

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
    """

    cell: Cell
    path: Path | None
    model: Mapping[str, Any] | None
    options: Mapping[str, Any]
    inputs: tuple[TensorSpec, ...]
    evidence: Mapping[str, Any] | None
    about: Mapping[str, Any] = field(default_factory=dict)

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
        evidence = self.evidence or {"verdict": "unproven", "reasons": []}
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


def check_scenario(name: str) -> None:
    """Check that a scenario exists and that the package it needs is installed."""
    known = (LATENCY, *registry.names(SCENARIOS))
    if name not in known:
        raise UnknownNameError("scenario", name, known, f"known: {', '.join(known)}")
    if name == "loadgen" and importlib.util.find_spec("mlperf_loadgen") is None:
        raise MissingPackageError("mlcommons-loadgen", "the scenario loadgen", "deploy-toolkit[loadgen]")


def fingerprint(device: str, kind: str | None = None) -> dict[str, Any]:
    """Return the parts of the machine's description that decide latencies, with its kind in a sweep over several."""
    found = {key: value for key, value in machine().items() if key in ("cpu", "cores", "architecture")}
    gpu = {"gpu": ", ".join(item.name for item in gpus())} if device == "cuda" else {}
    return {**found, **gpu, **({"kind": kind} if kind else {})}


def sizes_at(inputs: tuple[TensorSpec, ...], batch: int, others: Mapping[str, int]) -> dict[str, int]:
    """Return the size of every symbolic dimension for a batch size; ``others`` has those of the other dimensions."""
    found = symbols(inputs)
    if "batch" not in found:
        fixed = inputs[0].shape[0] if inputs and inputs[0].shape else None
        if fixed != batch:
            raise UsageError(f"the batch size is fixed at {fixed}; export the model with --dynamic batch.")
    missing = [name for name in found if name != "batch" and name not in others]
    if missing:
        raise UsageError(
            f"no size is recorded for the dimension {missing[0]!r}, with which to time the file.",
            f"export the model again: --input NAME:batch,{missing[0]}=16",
        )
    sizes = {name: batch if name == "batch" else others[name] for name in found}
    for spec in inputs:
        spec.concrete(sizes)  # refuses a size that the file excludes
    return sizes


def evidence_of(artifact: Artifact, backend: Backend, device: str) -> dict[str, Any] | None:
    """Return the manifest's parity evidence (``verdict``, ``reasons``, ``by``); None where it must be checked first."""
    proof, manifest = artifact.manifest.parity, artifact.manifest
    if proof is None or device != ("cuda" if manifest.format == ENGINE else "cpu"):
        return None
    verdict = {"verdict": proof["verdict"], "reasons": list(proof.get("reasons", ()))}
    if manifest.format == ENGINE:
        return {**verdict, "by": "trt build, on TensorRT"}
    if manifest.precision == "int8":
        outputs = [{key: item[key] for key in ("output", "sqnr_db", "agreement")} for item in proof["outputs"]]
        if proof.get("runtime") == backend.title:
            return {**verdict, "by": f"quantize, on {backend.title}", "outputs": outputs}
        return {
            "verdict": "unproven",
            "reasons": [f"the INT8 evidence was measured on {proof.get('runtime')}"],
            "by": "quantize",
        }
    if ONNX not in backend.default_for or not backend.versions().items() <= manifest.versions.items():
        return None
    return {**verdict, "by": f"export, on {backend.title}", "margin": proof.get("margin")}
