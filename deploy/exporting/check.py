"""``deploy check``: is this file equal to that model?"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import Artifact, sha256
from deploy.core.backend import find_backend
from deploy.core.errors import ArtifactError, BackendError, UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.exporting.locate import locate
from deploy.exporting.prove import prove
from deploy.exporting.samples import ProbeSamples
from deploy.models.open import open_model
from deploy.models.request import ModelRequest
from deploy.parity.locate import Location
from deploy.parity.verdict import ParityReport
from deploy.support import onnx_file
from deploy.support.lookup import EXPORTS, manifest_beside, newest_export

RUNTIME = "onnxruntime"
"""The backend that runs the file where none is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What `check` found.

    Attributes:
        backend: what ran the file.
        location: where the file first leaves the model; None where it was not asked for.
    """

    path: Path
    model: Model
    parity: ParityReport
    backend: str = RUNTIME
    located: bool = False
    location: Location | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "file": str(self.path),
            "sha256": sha256(self.path),
            "model": self.model.name,
            "backend": self.backend,
            "weights": asdict(self.model.weights),
            "parity": self.parity.to_dict(),
            "location": asdict(self.location) if self.location else None,
        }


def check(
    model: str | ModelRequest | None = None,
    *,
    onnx: Path | str | None = None,
    artifacts: Path | None = None,
    precision: str | None = None,
    backend: str = RUNTIME,
    locate_fault: bool = False,
    samples: ProbeSamples | None = None,
    progress: Progress = SILENT,
) -> CheckReport:
    """Judge an ONNX file against a model.

    Args:
        model: a name or a full request; None takes the model of the artifact, as its manifest records it.
        onnx: the file, anybody's; None takes the newest export (of the model, where one is named).
        artifacts: the artifacts directory.
        precision: what the file computes in, where no manifest says; default ``fp32``.
        backend: the plug-in of ``deploy.backends`` that runs the file.
        locate_fault: find the first tensor, in execution order, that leaves the model.
        samples: real samples, probed beside the seeded ones: arrays by input name, or images (`load_samples`).
        progress: told what happens.

    Raises:
        DeployError: see `deploy.core.errors`; a failed check is not an error but a verdict.
    """
    store = Store(artifacts or default_root())
    request = ModelRequest(name=model) if isinstance(model, str) else model
    if "onnx" not in find_backend(backend).formats:
        raise UsageError(f"the backend {backend} does not run ONNX files.")
    if locate_fault and backend != RUNTIME:
        raise UsageError(f"--locate runs the graph node by node on {RUNTIME}: it tells nothing of {backend}.")
    with IsolatedRunner(backend) as candidate:
        path, artifact = _file(onnx, request, store, progress)
        if artifact is not None:
            artifact.verify()
            _refuse_rounded(artifact)
        request = _request(request, artifact)
        onnx_file.load(path)  # what is damaged or points elsewhere is refused before anything runs it
        with progress.stage("building the model"):
            built = open_model(request, store, progress)
        mirrored = artifact is None or artifact.manifest.options.get("strategy") != "export"
        asked = precision or (artifact.manifest.precision if artifact else "fp32")
        try:
            with progress.stage("checking parity"):
                parity = prove(
                    built,
                    path,
                    candidate,
                    precision=asked,
                    seed=request.seed,
                    samples=samples,
                    mirrored=mirrored,
                    progress=progress,
                )
        except BackendError as exc:
            onnx_file.check(path)  # a damaged file has a better name than what the runtime says of it
            raise exc
    location = None
    if locate_fault:
        with progress.stage("locating"):
            location = locate(built, path, precision=asked, seed=request.seed, progress=progress)
    return CheckReport(path=path, model=built, parity=parity, backend=backend, located=locate_fault, location=location)


def _file(
    onnx: Path | str | None, request: ModelRequest | None, store: Store, progress: Progress
) -> tuple[Path, Artifact | None]:
    if onnx is not None:
        path = Path(onnx)
        if not path.is_file():
            raise ArtifactError(f"{path}: there is no such file.")
        return path, manifest_beside(path)
    artifact = newest_export(store, progress, name=request.name if request else None)
    return artifact.path, artifact


def _refuse_rounded(artifact: Artifact) -> None:
    """Eight bits are no rounding error of arithmetic: this verdict would only say that."""
    if artifact.manifest.precision not in EXPORTS:
        raise UsageError(
            f"{artifact.path}: it is {artifact.manifest.precision}, which has no envelope to be held against; "
            "its manifest holds what was measured.",
            f"deploy evaluate {artifact.path} --data DATA",
        )


def _request(request: ModelRequest | None, artifact: Artifact | None) -> ModelRequest:
    """What to build: what was named, completed by the manifest where it says the same model."""
    if artifact is None or not artifact.manifest.reference:
        if request is None:
            raise UsageError("a file without a manifest needs its model named.", "deploy check MODEL --onnx FILE")
        return request
    recorded = ModelRequest.from_dict(artifact.manifest.reference)
    if request is None:
        return recorded
    same = request.name in (recorded.name, artifact.manifest.model, artifact.manifest.slug)
    if not same or request.weights != "auto":
        return request
    return dataclasses.replace(
        recorded,
        name=request.name,
        options={**recorded.options, **request.options},
        inputs=request.inputs or recorded.inputs,
    )
