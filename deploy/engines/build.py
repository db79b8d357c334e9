"""``deploy trt build``: from a proven float export to a TensorRT engine."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.core.artifact import Artifact, manifest_path
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import REJECTED, Store
from deploy.engines.job import BuildJob, prepare
from deploy.engines.request import BuildRequest as BuildRequest
from deploy.support.cuda_driver import gpus
from exporters.onnx_to_tensorrt import Built, Profile
from exporters.trtexec import quoted, trtexec

if TYPE_CHECKING:
    from deploy.engines.proof import EngineProof

NOT_RUN = "built, not run here"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What `build_engine` made.

    Attributes:
        artifact: the engine with its manifest.
        built: what the builder told.
        profiles: shape ranges by input, one mapping for each optimization profile.
        proof: what a run showed; None where there is no GPU.
        onnx: the graph it was built from, where that is an artifact of its own (FP16, INT8).
        seconds: wall time of the whole.
    """

    artifact: Artifact
    built: Built
    profiles: tuple[Profile, ...]
    proof: EngineProof | None
    onnx: Artifact | None
    seconds: float

    @property
    def verdict(self) -> str | None:
        """Of the engine's run; None where it was not run."""
        return self.proof.verdict if self.proof else None

    @property
    def state(self) -> str:
        """Whether it was run, and what that showed: `NOT_RUN` where nothing was."""
        if self.verdict is None:
            return NOT_RUN
        return f"run here: {self.verdict}"

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
            "profiles": [{name: asdict(item) for name, item in profile.items()} for profile in self.profiles],
            "weighted": dict(self.built.weighted),
            "weight_bytes": dict(self.built.weight_bytes),
            "layers": dict(self.built.layers),
            "state": self.state,
            "verdict": self.verdict,
            "parity": manifest.parity,
            "parent": manifest.parent,
            "onnx": str(self.onnx.path) if self.onnx else None,
            "weights": asdict(manifest.weights),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TrtexecReport:
    """The command line of NVIDIA's own tool that builds the same engine.

    Attributes:
        arguments: the tool first.
        onnx: the graph that it is given; the precision is in it.
    """

    arguments: tuple[str, ...]
    onnx: Path

    @property
    def line(self) -> str:
        """For a POSIX shell."""
        return quoted(self.arguments)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"line": self.line, "arguments": list(self.arguments), "onnx": str(self.onnx)}


def build_engine(request: BuildRequest, *, artifacts: Path | None = None, progress: Progress = SILENT) -> BuildReport:
    """Build an engine; its precision is written into the graph that the builder is given.

    Args:
        request: which engine.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        progress: told what happens.

    Raises:
        DeployError: see `deploy.core.errors`; nothing is left behind but the graph that says the precision.
    """
    began = time.perf_counter()
    store = Store(artifacts or default_root())
    job = prepare(request, store, progress)
    with store.transaction(job.source.slug) as transaction:
        path = transaction.path(job.name)
        with progress.stage(f"building ({job.library.name})"):
            built = job.build(path, progress)
        manifest = job.manifest(built, path)
        proof = _proof(job, Artifact(path=path, manifest=manifest), store, progress) if gpus() else None
        if proof is not None:
            manifest = dataclasses.replace(manifest, parity=proof.parity)
        artifact = transaction.publish(manifest, REJECTED if proof and proof.verdict == "fail" else "")
    return BuildReport(
        artifact=artifact,
        built=built,
        profiles=tuple(job.options.profiles),
        proof=proof,
        onnx=job.onnx,
        seconds=time.perf_counter() - began,
    )


def _proof(job: BuildJob, engine: Artifact, store: Store, progress: Progress) -> EngineProof:
    from deploy.engines.proof import prove_engine  # imports PyTorch, which a build without a GPU does without

    manifest_path(engine.path).write_text(engine.manifest.to_json(), encoding="utf-8")  # none is opened without one
    with progress.stage("proving the engine"):
        return prove_engine(job, engine, store, progress)


def trtexec_line(request: BuildRequest, *, artifacts: Path | None = None, progress: Progress = SILENT) -> TrtexecReport:
    """Prepare the graph as `build_engine` does, and tell how NVIDIA's tool builds the engine of it; nothing is built.

    The tool's engine goes beside ours under another name: it has no manifest.

    Args:
        request: which engine.
        artifacts: as for `build_engine`.
        progress: told what happens.

    Raises:
        DeployError: see `deploy.core.errors`.
    """
    store = Store(artifacts or default_root())
    job = prepare(request, store, progress)
    path = store.folder(job.source.slug) / f"{Path(job.name).stem}.trtexec.engine"
    line = trtexec(job.library.name, job.graph, path, job.options)
    return TrtexecReport(arguments=tuple(line), onnx=job.graph)
