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
from deploy.core.environment import machine, version
from deploy.core.errors import MissingPackageError, UnknownNameError, UsageError
from deploy.core.tensors import TensorSpec, symbols
from deploy.support.cuda_driver import gpus

REFERENCE = "reference"
PASSED = ("pass", REFERENCE, "measured")
"""Verdicts with which a time may be shown; ``measured`` is eight bits without a bound that somebody set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """A backend as users name it.

    Attributes:
        plugin: its file in ``deploy.backends``.
        packages: whose versions decide its times; the first that is installed counts.
        modules: one of them must be importable.
        runs_files: it opens artifacts; else it runs the model itself.
        graphs: it can replay CUDA graphs.
        profiler: it can tell the time of layers.
        install: for pip.
    """

    plugin: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    install: str
    runs_files: bool = True
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    devices: tuple[str, ...] = ("cpu", "cuda")
    graphs: bool = False
    profiler: bool = True


BACKENDS: Mapping[str, Backend] = {
    "torch": Backend(
        plugin="pytorch",
        packages=("torch",),
        modules=("torch",),
        install="torch",
        runs_files=False,
        precisions=("fp32", "fp16"),
        graphs=True,
    ),
    "torch-compile": Backend(
        plugin="torch_compile",
        packages=("torch",),
        modules=("torch",),
        install="torch",
        runs_files=False,
        precisions=("fp32", "fp16"),
        profiler=False,
    ),
    "onnxruntime": Backend(
        plugin="onnxruntime",
        packages=("onnxruntime-gpu", "onnxruntime"),
        modules=("onnxruntime",),
        install="onnxruntime",
    ),
    "openvino": Backend(
        plugin="openvino",
        packages=("openvino",),
        modules=("openvino",),
        install="deploy-toolkit[openvino]",
        devices=("cpu",),
    ),
    "tensorrt": Backend(
        plugin="tensorrt",
        packages=("tensorrt", "tensorrt-rtx"),
        modules=("tensorrt", "tensorrt_rtx"),
        install="deploy-toolkit[tensorrt]",
        devices=("cuda",),
        graphs=True,
        profiler=False,
    ),
}
DEFAULT = ("torch", "onnxruntime", "openvino")
"""Backends of a benchmark that names none, where installed; compiling with PyTorch takes up to a minute a process."""


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
    def plugin(self) -> str:
        """The backend's file."""
        return BACKENDS[self.cell.backend].plugin


def choose_backends(asked: tuple[str, ...]) -> tuple[str, ...]:
    """The backends of a benchmark.

    Raises:
        UnknownNameError: one is not known.
        MissingPackageError: one that was asked for is not installed.
    """
    for name in asked:
        if name not in BACKENDS:
            raise UnknownNameError("backend", name, BACKENDS, f"known: {', '.join(BACKENDS)}")
        if not _installed(name):
            backend = BACKENDS[name]
            raise MissingPackageError(backend.modules[0], f"the backend {name}", backend.install)
    return asked or tuple(name for name in DEFAULT if _installed(name))


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


def _installed(name: str) -> bool:
    return any(importlib.util.find_spec(module) is not None for module in BACKENDS[name].modules)


def backend_versions(name: str) -> dict[str, str]:
    """The version of what runs a backend."""
    found = ((package, version(package)) for package in BACKENDS[name].packages)
    return dict([(package, text) for package, text in found if text][:1])


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


def evidence_of(artifact: Artifact, backend: str) -> dict[str, Any] | None:
    """What the manifest knows of this very file on this very backend; None where it must be proven."""
    proof = artifact.manifest.parity
    if proof is None:
        return None
    verdict = {"verdict": proof["verdict"], "reasons": list(proof.get("reasons", ()))}
    if backend == "tensorrt":
        return {**verdict, "by": "trt build, on TensorRT"}
    if artifact.manifest.precision == "int8":
        runtime = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}.get(backend)
        outputs = [{key: item[key] for key in ("output", "sqnr_db", "agreement")} for item in proof["outputs"]]
        if proof.get("runtime") == runtime:
            return {**verdict, "by": f"quantize, on {runtime}", "outputs": outputs}
        return {
            "verdict": "unproven",
            "reasons": [f"its evidence was taken on {proof.get('runtime')}"],
            "by": "quantize",
        }
    same = backend_versions(backend).items() <= artifact.manifest.versions.items()
    if backend != "onnxruntime" or not same:
        return None
    return {**verdict, "by": "export, on ONNX Runtime", "margin": proof.get("margin")}
