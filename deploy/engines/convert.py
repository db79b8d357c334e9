"""``deploy export --format``: reach a format by a chain of exporters, each named ``A_to_B``.

An exporter is a module, ours or a third party's; see docs/extending/edge.md.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deploy.core import registry
from deploy.core.artifact import Artifact, Manifest, Payload, sha256
from deploy.core.brief import brief, margin_text
from deploy.core.errors import DeployError, ExportError, MissingPackageError, UsageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.names import REJECTED
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.engines.build import BuildReport, build_engine
from deploy.engines.request import BuildRequest
from deploy.engines.route import EDGES, route
from deploy.exporting.export import ExportReport, Precision, Strategy, export_model
from deploy.exporting.half_options import half_options
from deploy.exporting.prove import prove
from deploy.exporting.samples import ProbeSamples
from deploy.models.given import as_request
from deploy.models.open import open_model, request_of
from deploy.models.request import ModelRequest, ModuleRequest
from deploy.parity.probes import Level
from deploy.parity.verdict import ParityReport
from deploy.tasks.pipeline import GraphPipeline

if TYPE_CHECKING:
    from deploy.models.in_memory import ExampleInputs, ModelLike

MODEL_EXPORTER = "torch_to_onnx"
"""The only exporter of PyTorch models; all others convert a file that passed the parity check."""

ENGINE_EXPORTER = "onnx_to_tensorrt"
"""The exporter that `build_engine` runs, with options, profiles and a parity check of its own."""


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
            **self.artifact.facts(),
            "format": manifest.format,
            "edge": self.edge,
            "backend": self.backend,
            "state": "converted, not run here" if self.verdict is None else f"run here: {self.verdict}",
            "verdict": self.verdict,
            "parity": manifest.parity,
            "parent": manifest.parent,
            "weights": asdict(manifest.weights),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ConvertReport:
    """Result of `convert`.

    Attributes:
        export: the export that the others were made from.
        engine: the engine; None if none was requested or an earlier step failed.
        converted: results of the other exporters, in order.
    """

    export: ExportReport
    engine: BuildReport | None = None
    converted: tuple[Converted, ...] = ()

    def __repr__(self) -> str:
        last = self.converted[-1].artifact if self.converted else self.engine.artifact if self.engine else None
        return brief(self, self.verdict, (last or self.export.artifact).path, margin_text(self.export.parity.margin))

    @property
    def verdict(self) -> str:
        """The first verdict that is not ``pass``; ``pass`` if there is none."""
        verdicts: list[str | None] = [self.export.parity.verdict, self.engine.verdict if self.engine else None]
        verdicts += [item.verdict for item in self.converted]
        return next((verdict for verdict in verdicts if verdict not in ("pass", None)), None) or "pass"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the export's, with the keys ``engine`` and ``converted`` for the others."""
        document = self.export.to_dict()
        if self.engine is not None:
            document["engine"] = self.engine.to_dict()
        if self.converted:
            document["converted"] = [item.to_dict() for item in self.converted]
        return document


def convert(
    model: ModelLike,
    format: str = "onnx",
    *,
    inputs: ExampleInputs | None = None,
    name: str | None = None,
    outputs: Sequence[str] | None = None,
    artifacts: str | Path | None = None,
    dynamic: Sequence[str] | None = None,
    opset: int | None = None,
    precision: Precision = "fp32",
    min_sqnr: float | None = None,
    keep_float: Sequence[str] = (),
    only_half: Sequence[str] = (),
    plan: str | Path | None = None,
    strategy: Strategy = "auto",
    preprocess: Sequence[str] = (),
    labels: Sequence[str] = (),
    pipeline: GraphPipeline | None = None,
    samples: ProbeSamples | None = None,
    probes: Level = "standard",
    min_coverage: float | None = None,
    accept_unreached: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> ConvertReport:
    """Export a model to ONNX, check its parity, and convert the file to another format.

    A step that fails its parity check ends the chain.

    Args:
        model: the model; ``model``, ``inputs``, ``name``, ``dynamic``, ``opset`` and ``strategy`` are those of
            `deploy.export_model`.
        format: ``onnx``, ``tensorrt``, or another format that a chain of exporters reaches.
        inputs: of a module in memory, see `deploy.ExampleInputs`.
        name: name of the model's folder and files.
        outputs: names of the outputs that are exported and count; default: all.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        dynamic: dimensions to keep dynamic; an engine gets the default ranges of `BuildRequest`.
        opset: the ONNX opset.
        precision: of the last file, see `deploy.export_model`; the export that an engine is built from is float32.
        min_sqnr: signal over noise in dB that half precision is held to; for this and the next three see
            `deploy.exporting.half_options.HalfOptions`.
        keep_float: patterns of nodes that stay in float32.
        only_half: patterns of nodes that do not.
        plan: a plan to use in place of a search.
        strategy: how to export the model.
        preprocess: changes to the model's preprocessing, stored in the manifests.
        labels: class names, stored in the manifests; default: the model's own.
        pipeline: steps before and after the model, see `deploy.export_model`.
        samples: real samples for the parity check of the export.
        probes: how many probes the parity check of the export runs, see `deploy.export_model`.
        min_coverage: coverage of the export in percent below which its verdict is inconclusive.
        accept_unreached: accept branches of a traced graph that no probe took.
        force: replace another model, or trained weights by untrained ones, see `deploy.export_model`.
        progress: receives progress messages.

    Raises:
        UnknownNameError: no chain of exporters reaches the format.
        DeployError: as `deploy.export_model` and `deploy.build_engine`.
    """
    first, *rest = route(format)
    if first != MODEL_EXPORTER:
        raise UsageError(f"--format {format}: {first} starts from a PyTorch model; only {MODEL_EXPORTER} can do that.")
    engine_last = ENGINE_EXPORTER in rest
    half = half_options(precision, min_sqnr, keep_float, only_half, plan)
    if engine_last and precision == "bf16":
        raise UsageError(f"--format {format}: engines are built in fp32 or fp16.", "--precision fp16")
    model_request = as_request(model, inputs, name, outputs)
    export = export_model(
        model_request,
        artifacts=artifacts,
        dynamic=dynamic,
        opset=opset,
        precision="fp32" if engine_last else precision,
        min_sqnr=None if engine_last else min_sqnr,
        keep_float=() if engine_last else keep_float,
        only_half=() if engine_last else only_half,
        plan=None if engine_last else plan,
        strategy=strategy,
        preprocess=preprocess,
        labels=labels,
        pipeline=pipeline,
        samples=samples,
        probes=probes,
        min_coverage=min_coverage,
        accept_unreached=accept_unreached,
        force=force,
        progress=progress,
    )
    engine: BuildReport | None = None
    converted: list[Converted] = []
    artifact = export.artifact
    verdict: str = export.parity.verdict
    for edge in rest:
        if verdict == "fail":
            break
        if edge == ENGINE_EXPORTER:
            request = BuildRequest(
                model=artifact.path,
                fp16=half is not None,
                min_sqnr=half.min_sqnr if half else None,
                keep_float=tuple(keep_float),
                only_half=tuple(only_half),
                plan=half.plan if half else None,
            )
            engine = build_engine(request, artifacts=artifacts, progress=progress)
            artifact, verdict = engine.artifact, engine.verdict or verdict
        else:
            step = _run_exporter(edge, artifact, model_request, Store.at(artifacts), progress)
            converted.append(step)
            artifact, verdict = step.artifact, step.verdict or verdict
    return ConvertReport(export=export, engine=engine, converted=tuple(converted))


def _run_exporter(edge: str, source: Artifact, request: ModelRequest, store: Store, progress: Progress) -> Converted:
    """Convert an artifact, and check the file's parity with the model if a backend runs it.

    The exporter is a module with a function ``convert(source, path)``, which writes ``path`` and may write more files
    beside it; with ``SUFFIX``, the suffix of its files; and optionally with ``BACKEND``, the name of the plug-in of
    ``deploy.backends`` that runs them.
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
                parity = _check_parity(source, request, path, backend, store, progress)
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
            task=manifest.task,
            postprocessing=manifest.postprocessing,
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


def _check_parity(
    source: Artifact, request: ModelRequest, path: Path, backend: str, store: Store, progress: Progress
) -> ParityReport:
    if not isinstance(request, ModuleRequest):
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
