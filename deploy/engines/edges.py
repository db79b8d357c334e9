"""Conversion of an artifact by one exporter, ours or a third party's; see docs/extending/edge.md."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deploy.core import registry
from deploy.core.artifact import Artifact, Manifest, Payload, sha256
from deploy.core.errors import DeployError, ExportError, MissingPackageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import SILENT, Progress
from deploy.core.store import REJECTED, Store
from deploy.exporting.prove import prove
from deploy.models.open import open_model, request_of
from deploy.parity.verdict import ParityReport

EDGES = "exporters"
NOT_RUN = "converted, not run here"


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """Result of one exporter.

    Attributes:
        artifact: the file and its manifest; a file that fails is stored in the folder ``rejected``.
        edge: name of the exporter, ``onnx_to_ort``.
        backend: backend that ran the file; None if the exporter names none.
        parity: parity check of the file against the float64 model; None if it was not run.
    """

    artifact: Artifact
    edge: str
    backend: str | None
    parity: ParityReport | None
    seconds: float

    @property
    def verdict(self) -> str | None:
        """Verdict of the parity check; None if the file was not run."""
        return self.parity.verdict if self.parity else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            "file": str(self.artifact.path),
            "files": [item.file for item in manifest.files],
            "bytes": sum(item.bytes for item in manifest.files),
            "format": manifest.format,
            "precision": manifest.precision,
            "edge": self.edge,
            "backend": self.backend,
            "state": NOT_RUN if self.verdict is None else f"run here: {self.verdict}",
            "verdict": self.verdict,
            "parity": manifest.parity,
            "parent": manifest.parent,
            "weights": asdict(manifest.weights),
            "seconds": round(self.seconds, 3),
        }


def run_exporter(edge: str, source: Artifact, store: Store, progress: Progress) -> Converted:
    """Convert an artifact, and check the file's parity with the model if a backend runs it.

    The exporter is a module with a function ``convert(source, path)``, which writes ``path`` and may write more files
    beside it; with ``SUFFIX``, the suffix of its files; and optionally with ``BACKEND``, the name of the plug-in of
    ``deploy.backends`` that runs them.

    Raises:
        ExportError: the exporter failed or wrote nothing.
        MissingPackageError: the exporter needs a package that is not installed.
        BackendError: the backend cannot open or run the file.
    """
    began = time.perf_counter()
    module = _load(edge)
    manifest, backend = source.manifest, getattr(module, "BACKEND", None)
    source.verify()
    with store.transaction(manifest.slug) as transaction:
        path = transaction.path(f"{manifest.slug}.{manifest.precision}{module.SUFFIX}")
        with progress.stage(f"converting ({edge})"):
            _convert(module, edge, source.path, path)
        parity = None
        if backend is not None:
            with progress.stage(f"checking parity ({backend})"):
                parity = _check_parity(source, path, backend, store, progress)
        converted = Manifest(
            model=manifest.model,
            slug=manifest.slug,
            format=edge.partition("_to_")[2],
            precision=manifest.precision,
            files=tuple(Payload.of(item) for item in (path, *sorted(set(path.parent.iterdir()) - {path}))),
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            weights=manifest.weights,
            preprocessing=manifest.preprocessing,
            labels=manifest.labels,
            reference=manifest.reference,
            options={**manifest.options, "edge": edge},
            parent=source.manifest.digest,
            parity=parity.to_dict() if parity else None,
        )
        artifact = transaction.publish(converted, REJECTED if parity and parity.verdict == "fail" else "")
    return Converted(artifact=artifact, edge=edge, backend=backend, parity=parity, seconds=time.perf_counter() - began)


def _load(edge: str) -> ModuleType:
    try:
        module = registry.load(EDGES, edge, "exporter")
    except ModuleNotFoundError as exc:
        package = exc.name or edge
        raise MissingPackageError(package, f"the exporter {edge}", package) from exc
    missing = [name for name in ("convert", "SUFFIX") if not hasattr(module, name)]
    if missing:
        raise ExportError(f"the exporter {edge} has no {missing[0]}.", "see docs/extending/edge.md")
    return module


def _convert(module: ModuleType, edge: str, source: Path, path: Path) -> None:
    try:
        module.convert(source, path)
    except DeployError:
        raise
    except Exception as exc:
        first = next(iter(str(exc).splitlines()), type(exc).__name__)
        raise ExportError(f"{source}: {edge} cannot convert it: {first}") from exc
    if not path.is_file():
        raise ExportError(f"{source}: {edge} did not write {path.name}.")


def _check_parity(source: Artifact, path: Path, backend: str, store: Store, progress: Progress) -> ParityReport:
    request = request_of(source)
    with IsolatedRunner(backend) as candidate:
        report = prove(
            open_model(request, store, SILENT),  # the export gave the warnings
            path,
            candidate,
            precision=source.manifest.precision,
            seed=request.seed,
            find_weights=False,
            progress=progress,
        )
    return dataclasses.replace(report, digest=sha256(path))
