"""``deploy trt build``: from a float32 export to a TensorRT engine."""

from __future__ import annotations

import dataclasses
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core import interrupt
from deploy.core.artifact import UNPROVEN, Artifact, Manifest, Payload, manifest_path
from deploy.core.brief import brief
from deploy.core.errors import ArtifactError, BackendError, ExportError, UsageError
from deploy.core.names import REJECTED
from deploy.core.plain import to_plain
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.engines.lock import EngineLock
from deploy.engines.profiles import profiles_of
from deploy.engines.request import BuildRequest
from deploy.exporting.half_options import HalfOptions
from deploy.models.given import given_source
from deploy.precision.plan import payloads
from deploy.quantization.source import PRECISION, Source, open_source
from deploy.support.cuda_driver import gpus
from deploy.support.engine_file import FORMAT, arithmetic
from deploy.support.lone_file import assumed_batch
from deploy.support.tensorrt_library import Library, open_library
from exporters.onnx_to_tensorrt import Built, EngineOptions, Profile, build
from exporters.trtexec import trtexec

if TYPE_CHECKING:
    from deploy.engines.proof import EngineProof
    from deploy.quantization.data import CalibrationData

TARGET, FP8_TARGET = "tensorrt", "tensorrt-fp8"
NOT_RUN = "built, not run here"
_BUILT = ("library", "version", "profiles", "weighted", "weight_bytes", "layers")
"""Options of the manifest that say what was built."""

FP8_CAPABILITY = (8, 9)
"""First compute capability with FP8; the builder refuses such a graph for others."""

SIZE_CHECK_BYTES = 16 * 2**20
"""The engine's size is checked only if its weights save more than this: kernels take some megabytes as well."""

_WEIGHTED_TYPES = {
    "int8": "int8",
    "int8-fp16": "int8",
    "fp8": "fp8",
    "fp16": "half",
    "bf16": "bf16",
    "fp32": "float",
}
"""TensorRT's name of the type that layers with weights compute in, by precision."""

_TYPE_BYTES = {"int8": 1, "uint8": 1, "fp8": 1, "half": 2, "bf16": 2}
"""Bytes of one weight by TensorRT's name of its type; 4 for all others."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class BuildReport:
    """Result of `build_engine`.

    Attributes:
        artifact: the engine and its manifest; an engine that fails is stored in the folder ``rejected``.
        profiles: shape ranges by input, one mapping for each optimization profile.
        proof: result of running the engine; None without a GPU.
        onnx: the FP16, INT8 or FP8 graph that the engine was built from; None for float32, which is built from the
            export.
        lock: the lock file beside the engine.
        same: whether the engine has the bytes of the locked one; None without ``locked``.
        seconds: duration of the call.
    """

    artifact: Artifact
    built: Built
    profiles: tuple[Profile, ...]
    proof: EngineProof | None
    onnx: Artifact | None
    lock: Path
    same: bool | None
    seconds: float

    def __repr__(self) -> str:
        return brief(self, self.state, self.artifact.path)

    @property
    def verdict(self) -> str | None:
        """Verdict of the parity check, ``measured`` for INT8; ``unproven`` if the model is not known.

        None if the engine was not run.
        """
        return self.proof.verdict if self.proof else None

    @property
    def state(self) -> str:
        """Whether the engine was run on this machine, with the verdict."""
        if self.verdict is not None:
            return f"run here: {self.verdict}"
        return NOT_RUN if self.artifact.manifest.reference else f"{NOT_RUN}, {UNPROVEN}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        manifest = self.artifact.manifest
        return {
            "file": str(self.artifact.path),
            "bytes": self.built.bytes,
            "model": manifest.model,
            "precision": manifest.precision,
            **{name: manifest.options[name] for name in _BUILT},
            "arithmetic": arithmetic(self.artifact),
            "state": self.state,
            "verdict": self.verdict,
            "parity": manifest.parity,
            "parent": manifest.parent,
            "onnx": str(self.onnx.path) if self.onnx else None,
            "lock": str(self.lock),
            "same": self.same,
            "weights": asdict(manifest.weights),
            "seconds": round(self.seconds, 3),
        }


def build_engine(
    request: BuildRequest, *, artifacts: str | Path | None = None, progress: Progress = SILENT
) -> BuildReport:
    """Build a TensorRT engine and, if there is a GPU, run it and compare it with the model.

    The precision is written into the graph before the build: FP16 and INT8 graphs are artifacts of their own. An FP32
    or FP16 engine passes or fails the parity check against the float64 model; an INT8 engine is compared with the
    float graph and its verdict is ``measured``.

    Args:
        request: the engine to build.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages.

    Returns:
        The engine with the result of running it. A verdict ``fail`` is not an exception.

    Raises:
        UsageError: an unknown runtime, or a shape range or compute capability that is not possible.
        MissingPackageError: the library is not installed.
        ArtifactError: the ONNX file does not exist or is not a float32 export; or the build differs from its lock.
        DigestError: the export differs from its manifest.
        ExportError: the library does not support the graph, or the build failed.
        BackendError: the library does not start, or the engine does not compute in the requested precision.
        DeployError: any other error of `deploy.core.errors`. Only an FP16 or INT8 graph is left behind.
    """
    began = time.perf_counter()
    store = Store.at(artifacts)
    locked = EngineLock.read(request.locked) if request.locked else None
    plan = _prepare(request, store, progress, locked)
    lock = EngineLock.of(plan.library, plan.graph, plan.precision, plan.options)
    _compare(lock, locked, request, plan.given)
    with store.transaction(plan.source.slug) as transaction:
        path = transaction.path(plan.name)
        with progress.stage(f"building ({plan.library.name})"):
            built = _build(plan, path, progress)
        command = plan.request.command(plan.given, plan.library.name)
        lock_file = dataclasses.replace(lock, engine=built.sha256, command=command).write(path)
        manifest = _manifest(plan, built, (path, lock_file), command)
        proof = _prove(plan, Artifact(path=path, manifest=manifest), store, progress) if gpus() else None
        if proof is not None:
            manifest = dataclasses.replace(manifest, parity=proof.parity)
        artifact = transaction.publish(manifest, REJECTED if proof and proof.verdict == "fail" else "")
    return BuildReport(
        artifact=artifact,
        built=built,
        profiles=tuple(plan.options.profiles),
        proof=proof,
        onnx=plan.onnx,
        lock=artifact.path.with_name(lock_file.name),
        same=None if locked is None else locked.engine == built.sha256,
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrtexecReport:
    """The command of NVIDIA's own tool that builds the same engine.

    Attributes:
        onnx: the graph that the tool is given; it contains the precision.
    """

    arguments: tuple[str, ...]
    onnx: Path

    @property
    def line(self) -> str:
        """The command for a POSIX shell."""
        return shlex.join(self.arguments)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"line": self.line, "arguments": list(self.arguments), "onnx": str(self.onnx)}


def trtexec_line(
    request: BuildRequest, *, artifacts: str | Path | None = None, progress: Progress = SILENT
) -> TrtexecReport:
    """Prepare the graph as `build_engine` does and return the command of NVIDIA's tool; no engine is built.

    The command writes the engine beside ours under another name, without a manifest. If the graph has equations of
    Einsum that TensorRT's parser refuses, `build_engine` rewrites them on the way; for the command, a rewritten graph
    is written beside the engine.

    Args:
        request: the engine to build.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: receives progress messages.

    Raises:
        DeployError: as `build_engine`, except for errors of the build.
    """
    if request.locked is not None:
        raise UsageError("--print-trtexec builds nothing, so --locked has no effect.", "remove --locked")
    store = Store.at(artifacts)
    plan = _prepare(request, store, progress)
    path = store.folder(plan.source.slug) / f"{Path(plan.name).stem}.trtexec.engine"
    graph = _parsable(plan.graph, path.with_suffix(".onnx"))
    line = trtexec(plan.library.name, graph, path, plan.options)
    return TrtexecReport(arguments=tuple(line), onnx=graph)


def _parsable(graph: Path, path: Path) -> Path:
    """Return a graph whose equations TensorRT's parser takes: itself, or a copy written to ``path``."""
    from deploy.support import onnx_file  # imports ONNX, which a build does without
    from exporters.einsum import to_lower_case

    model = onnx_file.load(graph)
    if not to_lower_case(model):
        return graph
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_file.copy_external_files(model, graph, path.parent)
    path.write_bytes(model.SerializeToString())
    return path


@dataclass(frozen=True, kw_only=True, slots=True)
class _BuildPlan:
    """Everything that a build needs.

    Attributes:
        onnx: the FP16 or INT8 graph made from the export; None for float32.
        data: calibration data; None without INT8.
    """

    request: BuildRequest
    source: Source
    onnx: Artifact | None
    data: CalibrationData | None
    library: Library
    options: EngineOptions

    @property
    def graph(self) -> Path:
        return self.onnx.path if self.onnx else self.source.path

    @property
    def precision(self) -> str:
        """The precision of the engine, which a graph in half precision decides."""
        return self.request.precision if self.source.precision == PRECISION else self.source.precision

    @property
    def given(self) -> str:
        """What a command names to build the engine again."""
        return self.source.name if self.source.precision == PRECISION else str(self.source.path)

    @property
    def name(self) -> str:
        """File name of the engine."""
        return f"{self.source.slug}.{self.precision}-{self.library.name}.engine"


def _prepare(request: BuildRequest, store: Store, progress: Progress, locked: EngineLock | None = None) -> _BuildPlan:
    """Find the export, write its FP16 or INT8 graph, and make the profiles.

    What differs from a lock is found before the graph is written, which takes a search or a calibration.
    """
    request.check()
    library = open_library(request.runtime)
    progress.note(f"building with {library.name} {library.version}")
    source = open_source(
        given_source(request.model, name=request.name),
        store,
        (),
        progress,
        name=request.name,
        half=not request.quantizes,
    )
    if assumed := assumed_batch(source.path, source.inputs):
        progress.note(assumed)
    options = EngineOptions(
        profiles=profiles_of(source.inputs, request.batch, request.shapes),
        workspace_bytes=request.workspace_bytes,
        level=request.optimization_level,
        timing_cache=request.timing_cache,
        compute_capabilities=request.compute_capabilities or (_with_fp8(library) if request.fp8 else ()),
    )
    plan = _BuildPlan(request=request, source=source, onnx=None, data=None, library=library, options=options)
    _compare(EngineLock.of(library, None, plan.precision, options), locked, request, plan.given)
    onnx, data = None, None
    if request.quantizes:
        onnx, data = _quantized_graph(source, request, store, progress)
    elif source.precision != PRECISION:
        half = request.half()
        if half not in (None, HalfOptions()) or (half and half.precision != source.precision):
            raise UsageError(
                f"{source.path}: this graph is in {source.precision} already, and is built as it is.",
                f"deploy trt build {source.path}",
            )
    elif request.fp16:
        onnx = _fp16_graph(source, request, store, progress)
    return dataclasses.replace(plan, onnx=onnx, data=data)


def _with_fp8(library: Library) -> tuple[str, ...]:
    """Return the compute capabilities with FP8 that TensorRT for RTX knows; none for TensorRT."""
    return tuple(item for item in library.capabilities if tuple(map(int, item.split("."))) >= FP8_CAPABILITY)


def _quantized_graph(
    source: Source, request: BuildRequest, store: Store, progress: Progress
) -> tuple[Artifact, CalibrationData]:
    from deploy.quantization.quantize import quantize  # imports PyTorch and ONNX Runtime

    report = quantize(
        source.path,
        name=request.name,
        calib=str(request.calib),
        target=FP8_TARGET if request.fp8 else TARGET,
        method=request.method,
        samples=request.samples,
        fp16=request.fp16,
        artifacts=store.root,
        progress=progress,
    )
    if report.verdict == "fail":
        target = report.artifact.manifest.target
        raise ExportError(
            f"{report.artifact.path}: {'; '.join(report.reasons)}.",
            f"deploy quantize {source.path} --target {target} --calib {request.calib} --report",
        )
    return report.artifact, report.data


def _fp16_graph(source: Source, request: BuildRequest, store: Store, progress: Progress) -> Artifact:
    """Write the export in FP16 as an artifact of its own: the engine's parent, and the input for trtexec.

    The export itself, in float64, is what FP16 is searched against; a model is not needed.
    """
    from deploy.exporting.halve import halve_file  # imports PyTorch

    half = request.half()
    assert half is not None
    with store.transaction(source.slug) as transaction:
        path = transaction.path(f"{source.slug}.fp16-{TARGET}.onnx")
        with progress.stage("converting to FP16"):
            plan, notes = halve_file(source.path, path, half, sizes=source.traced_sizes, progress=progress)
        for note in (*notes, plan.summary()):
            progress.note(note)
        if plan.margin is not None and plan.margin < 1.0:
            progress.warn("no set of nodes in float32 was found with which FP16 holds its bound.")
        manifest = source.derived_manifest(
            format="onnx",
            precision="fp16",
            target=TARGET,
            files=payloads(path, plan),
            options=half.recorded(plan),
        )
        return transaction.publish(manifest)


def _build(plan: _BuildPlan, path: Path, progress: Progress) -> Built:
    def advance(done: int, total: int, text: str) -> bool:
        progress.advance(done, total, f"building: {text}")
        return not interrupt.pending()

    def hear(severity: str, text: str) -> None:
        if severity in ("error", "internal_error", "warning"):
            progress.detail(f"{plan.library.name}: {text}")

    try:
        built = build(plan.graph, path, plan.library, plan.options, on_message=hear, on_progress=advance)
    except ExportError:
        interrupt.check()  # a canceled build is not an error of the graph
        raise
    check_precision(built, plan.precision, plan.graph, copies=len(plan.options.compute_capabilities) or 1)
    return built


def check_precision(built: Built, precision: str, graph: Path, copies: int = 1) -> None:
    """Raise `BackendError` unless an engine computes in a precision; no GPU is needed.

    Of the layers with weights in the parsed network, which is strongly typed, one must be in that precision. The engine
    must be smaller than its weights in float32, if the precision saves more than `SIZE_CHECK_BYTES` of them and the
    engine contains a single copy.
    """
    expected = _WEIGHTED_TYPES[precision]
    if built.weighted and not built.weighted.get(expected):  # a graph of other layers, such as Einsum, has none
        actual = ", ".join(f"{count} in {name}" for name, count in built.weighted.items())
        raise BackendError(
            f"{graph}: the engine was built for {precision}, and none of its layers with weights computes in "
            f"{expected}: {actual}."
        )
    float_bytes = sum(size * 4 // _TYPE_BYTES.get(name, 4) for name, size in built.weight_bytes.items())
    saved = float_bytes - sum(built.weight_bytes.values())
    if copies == 1 and saved > SIZE_CHECK_BYTES and built.bytes >= float_bytes:
        raise BackendError(
            f"{graph}: the engine was built for {precision}, and with {built.bytes} bytes it is not smaller than its "
            f"weights in float32 ({float_bytes} bytes)."
        )


def _compare(lock: EngineLock, locked: EngineLock | None, request: BuildRequest, given: str) -> None:
    """Raise `ArtifactError` if a build differs from its lock."""
    if locked is not None and (differences := lock.differences(locked)):
        command = locked.command or request.command(given, lock.library)
        raise ArtifactError(f"{request.locked}: this build differs from the lock: {'; '.join(differences)}.", command)


def _manifest(plan: _BuildPlan, built: Built, files: tuple[Path, Path], command: str) -> Manifest:
    gpu = next(iter(gpus()), None)
    return plan.source.derived_manifest(
        format=FORMAT,
        precision=plan.precision,
        target=built.library,
        files=tuple(map(Payload.of, files)),
        options={
            "library": built.library,
            "version": built.version,
            "compute_capabilities": list(plan.options.compute_capabilities),
            "gpu": asdict(gpu) if gpu else None,
            "profiles": to_plain(plan.options.profiles),
            "timing_cache": built.timing_cache,
            "weighted": dict(built.weighted),
            "weight_bytes": dict(built.weight_bytes),
            "layers": dict(built.layers),
            "calibration": plan.onnx.manifest.options.get("calibration") if plan.onnx else None,
            "onnx": plan.graph.name,
            "rebuild": command,
        },
        parent=plan.onnx.manifest.digest if plan.onnx else plan.source.digest,
    )


def _prove(plan: _BuildPlan, engine: Artifact, store: Store, progress: Progress) -> EngineProof:
    from deploy.engines.proof import prove_engine  # imports PyTorch, which a build without a GPU does not need

    manifest_path(engine.path).write_text(engine.manifest.to_json(), encoding="utf-8")  # an engine needs one to open
    with progress.stage("checking the engine"):
        return prove_engine(engine, plan.source, plan.options.profiles, plan.data, store, progress)
