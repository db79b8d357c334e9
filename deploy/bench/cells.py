"""Which cells a benchmark has: what runs, where it is or how it is made, and what is known of its being right."""

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
"""Verdicts with which a time may be shown; ``measured`` is eight bits without a bound that somebody set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """A cell that can be timed.

    Attributes:
        path: of the file, or None where the backend runs the model.
        model: the request that rebuilds the model with its very weights, for a backend that runs it.
        options: of the backend.
        evidence: on what runs; None where it must still be proven in the process that is timed.
        about: for the record.
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


def choose_backends(asked: tuple[str, ...]) -> tuple[str, ...]:
    """The backends of a benchmark.

    Raises:
        UnknownNameError: one is not known.
        MissingPackageError: one that was asked for is not installed.
    """
    for name in asked:
        find_backend(name).require()
    return asked or tuple(item.name for item in backends().values() if item.default and item.installed)


LATENCY = "latency"
SCENARIOS = "deploy.bench.scenarios"


def check_scenario(name: str) -> None:
    """Refuse a scenario that there is not.

    Raises:
        UnknownNameError: it is not known.
        MissingPackageError: it needs a package that is not installed.
    """
    known = (LATENCY, *registry.names(SCENARIOS))
    if name not in known:
        raise UnknownNameError("scenario", name, known, f"known: {', '.join(known)}")
    if name == "loadgen" and importlib.util.find_spec("mlperf_loadgen") is None:
        raise MissingPackageError("mlcommons-loadgen", "the scenario loadgen", "deploy-toolkit[loadgen]")


def fingerprint(device: str, kind: str | None = None) -> dict[str, Any]:
    """What of the machine decides times.

    Args:
        device: ``cuda`` adds the GPUs.
        kind: of the machine, in a sweep over several.
    """
    found = {key: value for key, value in machine().items() if key in ("cpu", "cores", "architecture")}
    there = {"gpu": ", ".join(item.name for item in gpus())} if device == "cuda" else {}
    return {**found, **there, **({"kind": kind} if kind else {})}


def sizes_at(inputs: tuple[TensorSpec, ...], batch: int, others: Mapping[str, int]) -> dict[str, int]:
    """Sizes of the symbolic dimensions for a batch.

    Raises:
        UsageError: the batch is fixed at another size, or a dimension has none.
    """
    found = symbols(inputs)
    if "batch" not in found:
        fixed = inputs[0].shape[0] if inputs and inputs[0].shape else None
        if fixed != batch:
            raise UsageError(f"its batch is fixed at {fixed}; export it with --dynamic batch.")
    missing = [name for name in found if name != "batch" and name not in others]
    if missing:
        raise UsageError(f"no size for its dimension {missing[0]!r}; give one with --size {missing[0]}=N.")
    return {name: batch if name == "batch" else others[name] for name in found}


def evidence_of(artifact: Artifact, backend: Backend, device: str) -> dict[str, Any] | None:
    """Return what the manifest records of this file on this backend and device; None if it must be checked first."""
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
            "reasons": [f"its evidence was taken on {proof.get('runtime')}"],
            "by": "quantize",
        }
    if ONNX not in backend.default_for or not backend.versions().items() <= manifest.versions.items():
        return None
    return {**verdict, "by": f"export, on {backend.title}", "margin": proof.get("margin")}
