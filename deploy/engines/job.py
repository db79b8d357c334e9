"""One build: the graph that says its precision, the builder, and what holds the engine against what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.core import interrupt
from deploy.core.artifact import Artifact, Manifest, Payload
from deploy.core.errors import BackendError, ExportError
from deploy.core.progress import Progress
from deploy.core.store import Store
from deploy.engines.profiles import profiles_of
from deploy.engines.request import BuildRequest
from deploy.quantization.source import Source, open_source
from deploy.support.cuda_driver import gpus
from deploy.support.engine_file import FORMAT
from deploy.support.tensorrt_library import Library, open_library
from exporters.limits import SINGLE_FILE_LIMIT
from exporters.onnx_to_tensorrt import Built, EngineOptions, build

if TYPE_CHECKING:
    from deploy.quantization.data import CalibrationData

TARGET = "tensorrt"
SAVING = 16 * 2**20
"""Bytes that smaller weights must save before an engine's size is held against it: kernels weigh some megabytes too."""

_WANTED = {"int8": "int8", "int8-fp16": "int8", "fp16": "half", "fp32": "float"}
"""What layers with weights must compute in, by what was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildJob:
    """What is built, of what, with what.

    Attributes:
        source: the float32 export.
        onnx: the graph made of it that says the precision; None where the export does (float32).
        data: what that was calibrated with and judged on; None without INT8.
    """

    request: BuildRequest
    source: Source
    onnx: Artifact | None
    data: CalibrationData | None
    library: Library
    options: EngineOptions

    @property
    def graph(self) -> Path:
        """The ONNX file that the builder is given."""
        return self.onnx.path if self.onnx else self.source.path

    @property
    def name(self) -> str:
        """Of the engine's file."""
        return f"{self.source.slug}.{self.request.precision}-{self.library.name}.engine"

    def build(self, path: Path, progress: Progress) -> Built:
        """Build, and hold the engine against what was asked for.

        Raises:
            ExportError: the graph is not supported, or the builder failed.
            BackendError: the library does not start, or no layer computes in what was asked for.
        """

        def advance(done: int, total: int, text: str) -> bool:
            progress.advance(done, total, f"building: {text}")
            return not interrupt.pending()

        def hear(severity: str, text: str) -> None:
            if severity in ("error", "internal_error", "warning"):
                progress.detail(f"{self.library.name}: {text}")

        try:
            built = build(self.graph, path, self.library, self.options, hear=hear, advance=advance)
        except ExportError:
            interrupt.check()  # a canceled build is no failure of the graph
            raise
        check_precision(built, self.request.precision, self.graph, copies=len(self.options.compute_capabilities) or 1)
        return built

    def manifest(self, built: Built, path: Path) -> Manifest:
        """Of the engine, before anything is proven of it."""
        found = gpus()
        known = self.onnx.manifest.options if self.onnx else {}
        return self.source.derived(
            format=FORMAT,
            precision=self.request.precision,
            target=built.library,
            files=(Payload(file=path.name, sha256=built.sha256, bytes=built.bytes),),
            options={
                "library": built.library,
                "version": built.version,
                "compute_capabilities": list(self.options.compute_capabilities),
                "gpu": asdict(found[0]) if found else None,
                "profiles": [
                    {name: asdict(item) for name, item in profile.items()} for profile in self.options.profiles
                ],
                "timing_cache": built.timing_cache,
                "weighted": dict(built.weighted),
                "weight_bytes": dict(built.weight_bytes),
                "layers": dict(built.layers),
                "calibration": known.get("calibration"),
                "onnx": self.graph.name,
                "rebuild": self.request.command(self._asked, self.library.name),
            },
            parent=self.onnx.manifest.digest if self.onnx else self.source.digest,
        )

    @property
    def _asked(self) -> str:
        """The model as a command takes it: by name where it has one, else by its file."""
        return self.source.model if self.source.manifest else str(self.source.path)


def prepare(request: BuildRequest, store: Store, progress: Progress) -> BuildJob:
    """Find the export, write the precision into its graph, and lay out the profiles.

    Raises:
        DeployError: see `deploy.core.errors`.
    """
    request.check()
    library = open_library(request.runtime)
    progress.note(f"building with {library.name} {library.version}")
    source = open_source(request.model, store, (), progress)
    options = EngineOptions(
        profiles=profiles_of(source.inputs, request.batch, request.shapes),
        workspace_bytes=request.workspace_bytes,
        level=request.level,
        timing_cache=request.timing_cache,
        compute_capabilities=request.compute_capabilities,
    )
    onnx, data = None, None
    if request.int8:
        onnx, data = _rounded(source, request, store, progress)
    elif request.fp16:
        with progress.stage("converting to half precision"):
            onnx = _halved(source, store)
    return BuildJob(request=request, source=source, onnx=onnx, data=data, library=library, options=options)


def _rounded(
    source: Source, request: BuildRequest, store: Store, progress: Progress
) -> tuple[Artifact, CalibrationData]:
    from deploy.quantization.quantize import quantize  # imports PyTorch and ONNX Runtime

    report = quantize(
        source.path,
        calib=str(request.calib),
        target=TARGET,
        method=request.method,
        samples=request.samples,
        half=request.fp16,
        artifacts=store.root,
        progress=progress,
    )
    if report.verdict == "fail":
        raise ExportError(
            f"{report.artifact.path}: {'; '.join(report.reasons)}.", "deploy quantize --report tells more"
        )
    return report.artifact, report.data


def _halved(source: Source, store: Store) -> Artifact:
    """The export in half precision, an artifact of its own: the engine's parent, and what trtexec can be given."""
    from exporters.half import to_half  # imports ONNX Runtime's transformers

    with store.transaction(source.slug) as transaction:
        path = transaction.path(f"{source.slug}.fp16-{TARGET}.onnx")
        to_half(source.path, path, SINGLE_FILE_LIMIT)
        files = [item for item in (path, path.with_name(f"{path.name}.data")) if item.exists()]
        return transaction.publish(
            source.derived(
                format="onnx", precision="fp16", target=TARGET, files=tuple(Payload.of(item) for item in files)
            )
        )


def check_precision(built: Built, precision: str, graph: Path, copies: int = 1) -> None:
    """An engine that was asked for in a precision and came out in another is an error, never an artifact.

    Two proofs need no GPU: the types of the parsed network, which is strongly typed, and the engine's size. The size
    decides where the weights in the precision asked for save more than `SAVING` and the engine was not made several
    times over for several GPUs.

    Raises:
        BackendError: it came out otherwise.
    """
    wanted = _WANTED[precision]
    if not built.weighted.get(wanted):
        found = ", ".join(f"{count} in {kind}" for kind, count in built.weighted.items())
        raise BackendError(f"{graph}: asked for {precision}, and no layer computes in {wanted}: {found or 'none'}.")
    full = float_bytes(built.weight_bytes)
    saved = full - sum(built.weight_bytes.values())
    if copies == 1 and saved > SAVING and built.bytes >= full:
        raise BackendError(
            f"{graph}: asked for {precision}, and the engine is {built.bytes} bytes, no less than its weights are in "
            f"float32 ({full} bytes)."
        )


def float_bytes(weight_bytes: Mapping[str, int]) -> int:
    """What weights of these types and sizes would take in float32."""
    return sum(size * 4 // _WIDTHS.get(kind, 4) for kind, size in weight_bytes.items())


_WIDTHS = {"int8": 1, "uint8": 1, "fp8": 1, "half": 2, "bf16": 2}
"""Bytes of a weight."""
