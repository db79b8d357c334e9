"""``deploy trt build``: from a proven float export to a TensorRT engine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.core import interrupt
from deploy.core.artifact import Artifact, Manifest, Payload
from deploy.core.errors import BackendError, ExportError, UsageError
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.support.tensorrt_library import Library, gpu_count, open_library
from deploy.workflows._profiles import profile_of
from deploy.workflows._quantize_source import Source, open_source
from deploy.workflows.quantize import METHOD, SAMPLES, quantize
from exporters._half import to_half
from exporters.onnx_to_tensorrt import Built, Options, Profile, build
from exporters.torch_to_onnx import SINGLE_FILE_LIMIT

FORMAT = "engine"
NOT_RUN = "built, not run here"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What `build_engine` made.

    Attributes:
        artifact: the engine with its manifest.
        built: what the builder told.
        profile: shape ranges by input.
        state: whether it was run: `NOT_RUN` where there is no GPU.
        onnx: the graph it was built from, where that is an artifact of its own (INT8).
    """

    artifact: Artifact
    built: Built
    profile: Profile
    state: str
    onnx: Artifact | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            "file": str(self.artifact.path),
            "bytes": self.built.bytes,
            "model": manifest.model,
            "precision": manifest.precision,
            "library": self.built.library,
            "version": self.built.version,
            "profile": {name: asdict(item) for name, item in self.profile.items()},
            "weighted": dict(self.built.weighted),
            "layers": dict(self.built.layers),
            "state": self.state,
            "parent": manifest.parent,
            "onnx": str(self.onnx.path) if self.onnx else None,
            "weights": asdict(manifest.weights),
            "seconds": round(self.seconds, 3),
        }


def build_engine(
    model: str | Path | None = None,
    *,
    fp16: bool = False,
    int8: bool = False,
    calib: str | Path | None = None,
    method: str = METHOD,
    samples: int = SAMPLES,
    batch: str | None = None,
    shapes: Sequence[str] = (),
    runtime: str = "auto",
    workspace_bytes: int | None = None,
    timing_cache: Path | None = None,
    level: int | None = None,
    compute_capabilities: Sequence[str] = (),
    artifacts: Path | None = None,
    progress: Progress = SILENT,
) -> BuildReport:
    """Build an engine; its precision is written into the graph that the builder is given.

    Args:
        model: a name (its newest float32 export, which is made where there is none), an ONNX file, or None for the
            newest float32 export.
        fp16: weights and activations in half precision, inputs and outputs float32.
        int8: Q/DQ for TensorRT, calibrated with ``calib``; with ``fp16`` the rest in half precision.
        calib: samples to calibrate with; this and the next two as in `deploy.workflows.quantize.quantize`.
        method: of choosing ranges.
        samples: to calibrate with, at the most.
        batch: ``MIN:OPT:MAX`` of a dynamic batch; default ``1:8:32``.
        shapes: ranges of other dynamic dimensions, ``name:min:opt:max``.
        runtime: ``tensorrt``, ``tensorrt-rtx`` or ``auto``.
        workspace_bytes: scratch memory; this and the next three as in `exporters.onnx_to_tensorrt.Options`.
        timing_cache: a file.
        level: 0 to 5.
        compute_capabilities: ``8.6``, ``12.0`` ….
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: told what happens.

    Raises:
        DeployError: see `deploy.core.errors`; nothing is left behind.
    """
    began = time.perf_counter()
    if int8 and calib is None:
        raise UsageError(
            "--int8 needs --calib: the ranges of activations are looked up in data like the data that is to come.",
            "deploy trt build --int8 --calib images/",
        )
    if calib is not None and not int8:
        raise UsageError("--calib is for --int8; without it nothing is calibrated.")
    library = open_library(runtime)
    progress.note(f"building with {library.name} {library.version}")
    store = Store(artifacts or default_root())
    source = open_source(model, store, (), progress)
    profile = profile_of(source.inputs, batch, shapes)
    rounded = _rounded(source, str(calib), method, samples, fp16, store, progress) if int8 else None
    precision = rounded.manifest.precision if rounded else "fp16" if fp16 else "fp32"
    options = Options(
        profiles=(profile,) if profile else (),
        workspace_bytes=workspace_bytes,
        level=level,
        timing_cache=timing_cache,
        compute_capabilities=tuple(compute_capabilities),
    )
    with store.transaction(source.slug) as transaction:
        graph = rounded.path if rounded else source.path
        if fp16 and rounded is None:
            with progress.stage("converting to half precision"):
                graph = transaction.path("half.onnx")
                shutil.copyfile(source.path, graph)
                _copy_data(source.path, graph)
                to_half(graph, SINGLE_FILE_LIMIT)
        path = transaction.path(f"{source.slug}.{precision}-{library.name}.engine")
        with progress.stage(f"building ({library.name})"):
            built = _build(graph, path, library, options, progress)
        _hold(built, precision, graph)
        manifest = _manifest(source, rounded, built, profile, precision, path, options)
        artifact = transaction.publish(manifest)
    return BuildReport(
        artifact=artifact,
        built=built,
        profile=profile,
        state=NOT_RUN,
        onnx=rounded,
        seconds=time.perf_counter() - began,
    )


def _rounded(
    source: Source, calib: str, method: str, samples: int, half: bool, store: Store, progress: Progress
) -> Artifact:
    report = quantize(
        source.path,
        calib=calib,
        target="tensorrt",
        method=method,
        samples=samples,
        half=half,
        artifacts=store.root,
        progress=progress,
    )
    if report.verdict == "fail":
        raise ExportError(
            f"{report.artifact.path}: {'; '.join(report.reasons)}.", "deploy quantize --report tells more"
        )
    return report.artifact


def _copy_data(source: Path, target: Path) -> None:
    """External data lies beside its graph under the name that the graph records."""
    data = source.with_name(f"{source.name}.data")
    if data.exists():
        shutil.copyfile(data, target.with_name(data.name))


def _build(graph: Path, path: Path, library: Library, options: Options, progress: Progress) -> Built:
    def advance(done: int, total: int, text: str) -> bool:
        progress.advance(done, total, f"building: {text}")
        return not interrupt.pending()

    def hear(severity: str, text: str) -> None:
        if severity in ("error", "internal_error", "warning"):
            progress.detail(f"{library.name}: {text}")

    try:
        return build(graph, path, library, options, hear=hear, advance=advance)
    except ExportError:
        interrupt.check()  # a cancelled build is no failure of the graph
        raise


def _hold(built: Built, precision: str, graph: Path) -> None:
    """An engine that was asked for in a precision and computes in another is an error, never an artifact."""
    wanted = {"int8": "int8", "int8-fp16": "int8", "fp16": "half", "fp32": "float"}[precision]
    if not built.weighted.get(wanted):
        found = ", ".join(f"{count} in {kind}" for kind, count in built.weighted.items())
        raise BackendError(f"{graph}: asked for {precision}, and no layer computes in {wanted}: {found or 'none'}.")


def _manifest(
    source: Source,
    rounded: Artifact | None,
    built: Built,
    profile: Profile,
    precision: str,
    path: Path,
    options: Options,
) -> Manifest:
    return Manifest(
        model=source.model,
        slug=source.slug,
        format=FORMAT,
        precision=precision,
        target=built.library,
        files=(Payload.of(path),),
        inputs=source.inputs,
        outputs=source.outputs,
        weights=source.weights,
        preprocessing=source.preprocessing,
        labels=source.labels,
        reference=source.manifest.reference if source.manifest else {},
        options={
            "library": built.library,
            "version": built.version,
            "compute_capabilities": list(options.compute_capabilities) or ["every one that the library supports"],
            "profiles": [{name: asdict(item) for name, item in profile.items()}] if profile else [],
            "timing_cache": built.timing_cache,
            "weighted": dict(built.weighted),
            "layers": dict(built.layers),
            "calibration": rounded.manifest.options.get("calibration") if rounded else None,
            "gpus": gpu_count(),
        },
        parent=rounded.manifest.files[0].sha256 if rounded else source.digest,
        parity=None,
    )
