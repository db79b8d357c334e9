"""``deploy check``: check an ONNX file against a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deploy.core.artifact import Artifact, sha256
from deploy.core.backend import ONNX, find_backend
from deploy.core.brief import brief, margin_text
from deploy.core.errors import ArtifactError, BackendError, UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import HALVES, Model
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.exporting.locate import locate
from deploy.exporting.prove import ProofOptions, prove
from deploy.models.given import as_request, text_of
from deploy.models.open import open_model, request_of, with_recorded_inputs
from deploy.models.request import ModelRequest, ModuleRequest
from deploy.parity.locate import Location
from deploy.parity.probes import Level, check_level
from deploy.parity.verdict import ParityReport, Verdict
from deploy.precision.plan import MIN_SQNR
from deploy.support import onnx_file
from deploy.support.lookup import EXPORTS, manifest_beside, newest_export
from deploy.support.onnx_child import OnnxChild

if TYPE_CHECKING:
    from deploy.exporting.samples import ProbeSamples
    from deploy.models.in_memory import ExampleInputs, ModelLike

DEFAULT_BACKEND = "onnxruntime"
"""The backend that runs the file if none is given."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class CheckReport:
    """The result of `check`.

    Attributes:
        path: the file.
        model: the model it was compared with.
        parity: the parity check; ``parity.margin`` is how many times the limit exceeds the noise-to-signal ratio.
        backend: the backend that ran the file.
        device: where it ran the file.
        location: the first tensor that differs from the model; None unless it was requested.
    """

    path: Path
    model: Model
    parity: ParityReport
    backend: str = DEFAULT_BACKEND
    device: str = "cpu"
    location: Location | None = None

    def __repr__(self) -> str:
        return brief(self, self.verdict, self.path, margin_text(self.parity.margin))

    @property
    def verdict(self) -> Verdict:
        """Verdict of the parity check: ``pass``, ``fail`` or ``inconclusive``."""
        return self.parity.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "file": str(self.path),
            "sha256": sha256(self.path),
            "model": self.model.name,
            "backend": self.backend,
            "device": self.device,
            "weights": asdict(self.model.weights),
            "parity": self.parity.to_dict(),
            "location": asdict(self.location) if self.location else None,
        }


def check(
    model: ModelLike | None = None,
    *,
    inputs: ExampleInputs | None = None,
    name: str | None = None,
    outputs: Sequence[str] | None = None,
    onnx: Path | str | Artifact | None = None,
    artifacts: str | Path | None = None,
    precision: Literal["fp32", "fp16", "bf16", "fp64"] | None = None,
    min_sqnr: float | None = None,
    backend: str = DEFAULT_BACKEND,
    device: Literal["cpu", "cuda"] = "cpu",
    locate_fault: bool = False,
    samples: ProbeSamples | None = None,
    probes: Level = "standard",
    min_coverage: float | None = None,
    accept_unreached: bool = False,
    progress: Progress = SILENT,
) -> CheckReport:
    """Check an ONNX file against a model.

    Args:
        model: name of the model, a full request, or a module in memory; default: the model recorded in the file's
            manifest, which an ONNX file or an artifact in place of a model stands for, too.
        inputs: of a module in memory: example tensors or texts of ``--input``, see `deploy.ExampleInputs`; of a name:
            texts.
        name: name of the model's folder, in which the newest export is checked; of a module in memory, see
            `deploy.module_request`.
        outputs: names of the model's outputs that the file has and that count; default: those that its manifest
            records, else all.
        onnx: the file, made by any exporter; default: the newest export, of the model if one is given.
        artifacts: the artifacts directory.
        precision: precision of the file; default: the manifest's, else the model's own.
        min_sqnr: signal over noise in dB that a file in half precision is held to; default: the manifest's if that is
            40 or more, else four times the noise of PyTorch's own run, or 40 dB where that is of no use.
        backend: the backend that runs the file.
        device: ``cpu`` or ``cuda``: where the backend runs it.
        locate_fault: also find the first tensor, in execution order, that differs from the model.
        samples: real samples, probed in addition: arrays by input name, or images; see
            `deploy.exporting.samples.load_samples`.
        probes: how many probes are run: ``quick``, ``standard`` or ``thorough``; or ``data``: only the samples.
        min_coverage: coverage in percent below which the verdict is inconclusive.
        accept_unreached: accept branches of a traced or foreign file that no probe took.
        progress: receives progress messages.

    Raises:
        ArtifactError: the file does not exist or is damaged.
        UsageError: the file cannot be checked in this way.
        DeployError: see `deploy.core.errors`; a verdict other than ``pass`` is not an error.
    """
    check_level(probes, samples is not None)
    store = Store.at(artifacts)
    if model is None and (inputs is not None or name is not None or outputs is not None):
        raise UsageError("inputs=, name= and outputs= have no effect without a model.")
    request = None if model is None else as_request(model, inputs, name, outputs)
    if request is not None and request.is_onnx and onnx is None:
        if request != ModelRequest(name=request.name):
            raise UsageError(f"{request.name}: options of a model have no effect on a file.", "name the model")
        onnx, request = request.name, None
    if ONNX not in find_backend(backend).formats:
        raise UsageError(f"--backend {backend}: this backend does not run ONNX files.")
    if device not in find_backend(backend).devices:
        raise UsageError(f"--device {device}: {backend} does not run on it.")
    if locate_fault and (backend != DEFAULT_BACKEND or device != "cpu"):
        remove = f"--backend {backend}" if backend != DEFAULT_BACKEND else f"--device {device}"
        raise UsageError(f"--locate runs single nodes in {DEFAULT_BACKEND} on the CPU; remove {remove}.")
    with IsolatedRunner(backend) as candidate, OnnxChild() as reader:
        path, artifact = _file(onnx, request, store, progress)
        if artifact is not None:
            artifact.verify()
            _refuse_quantized(artifact)
        request = _complete(request, path, artifact)
        reader.examine(path)  # before this process or a runtime opens the file
        onnx_file.input_output_specs(path)  # refuses sequences, maps and unknown types
        with progress.stage("building the model"):
            built = open_model(request, store, progress)
        judged: str = precision or (artifact.manifest.precision if artifact else built.precision)
        if min_sqnr is not None and judged not in HALVES:
            raise UsageError(f"--min-sqnr has no effect on a file in {judged}.")
        if min_sqnr is None and artifact is not None:
            min_sqnr = _recorded_bound(artifact)
        try:
            with progress.stage("checking parity"):
                parity = prove(
                    built,
                    path,
                    candidate,
                    precision=judged,
                    seed=request.seed,
                    samples=samples,
                    options=ProofOptions(
                        probes=probes,
                        min_coverage=min_coverage,
                        accept_unreached=accept_unreached,
                        min_sqnr=min_sqnr,
                        device=device,
                    ),
                    negated=artifact is None or artifact.manifest.options.get("strategy") != "export",
                    ranges=[item for spec in artifact.manifest.inputs for item in spec.ranges] if artifact else (),
                    progress=progress,
                )
        except BackendError:
            reader.validate(path)  # if the file is damaged, this error is clearer than the runtime's
            raise
    location = None
    if locate_fault:
        with progress.stage("locating"):
            location = locate(built, path, precision=judged, seed=request.seed)
    return CheckReport(path=path, model=built, parity=parity, backend=backend, device=device, location=location)


def _file(
    onnx: Path | str | Artifact | None, request: ModelRequest | None, store: Store, progress: Progress
) -> tuple[Path, Artifact | None]:
    if onnx is not None:
        path = Path(text_of(onnx))
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file.")
        return path, manifest_beside(path)
    artifact = newest_export(store, progress, name=request.lookup if request else None)
    return artifact.path, artifact


def _recorded_bound(artifact: Artifact) -> float | None:
    """Return the bound in dB that a manifest records, unless it is lower than the default: a sender may have set it."""
    bound = artifact.manifest.options.get("min_sqnr")
    return float(bound) if isinstance(bound, (int, float)) and bound >= MIN_SQNR else None


def _refuse_quantized(artifact: Artifact) -> None:
    """Refuse INT8 files: quantization error is not a rounding error, so they would always fail."""
    if artifact.manifest.precision not in EXPORTS:
        raise UsageError(
            f"{artifact.path}: the parity check has no limits for {artifact.manifest.precision}; "
            "the measured error is in the manifest.",
            f"deploy evaluate {artifact.path} --data DATA",
        )


def _complete(request: ModelRequest | None, path: Path, artifact: Artifact | None) -> ModelRequest:
    """Return the model to build: the request, completed from the manifest if that records the same model."""
    if artifact is None or not artifact.manifest.reference:
        if request is None:
            raise UsageError(
                f"{path}: its model is not known, so it needs something to be compared with.",
                f"with a model: deploy check MODEL --onnx {path}; "
                f"with another ONNX file: deploy check {path} --against OTHER.onnx",
            )
        return request
    if isinstance(request, ModuleRequest):
        return with_recorded_inputs(request, [artifact])
    if request is None:
        return request_of(artifact)
    if "module" in artifact.manifest.reference:
        return request
    recorded = ModelRequest.from_dict(artifact.manifest.reference)
    same = request.name in (recorded.name, artifact.manifest.model, artifact.manifest.slug)
    if not same or request.weights != "auto":
        return dataclasses.replace(request, pipeline=recorded.pipeline) if same else request
    return dataclasses.replace(
        recorded,
        name=request.name,
        arch=request.arch or recorded.arch,
        seed=request.seed or recorded.seed,
        options={**recorded.options, **request.options},
        inputs=request.inputs or recorded.inputs,
        outputs=request.outputs or recorded.outputs,
    )
