"""``deploy export --format``: reach a format by a chain of exporters, each named ``A_to_B``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core import registry
from deploy.core.errors import UnknownNameError, UsageError
from deploy.core.paths import default_root
from deploy.core.progress import SILENT, Progress
from deploy.core.store import Store
from deploy.engines.build import BuildReport, BuildRequest, build_engine
from deploy.engines.edges import EDGES, Converted, run_exporter
from deploy.exporting.export import ExportReport, export_model
from deploy.exporting.samples import ProbeSamples
from deploy.models.request import ModelRequest

START = "torch"

MODEL_EXPORTER = "torch_to_onnx"
"""The only exporter of PyTorch models; all others convert a file that passed the parity check."""

ENGINE_EXPORTER = "onnx_to_tensorrt"
"""The exporter that `build_engine` runs, with options, profiles and a parity check of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertReport:
    """Result of `convert`.

    Attributes:
        engine: the engine; None if none was requested or an earlier step failed.
        converted: results of the other exporters, in order.
    """

    export: ExportReport
    engine: BuildReport | None = None
    converted: tuple[Converted, ...] = ()

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
    model: str | ModelRequest,
    format: str = "onnx",
    *,
    artifacts: Path | None = None,
    dynamic: Sequence[str] | None = None,
    opset: int | None = None,
    precision: str = "fp32",
    strategy: str = "auto",
    samples: ProbeSamples | None = None,
    progress: Progress = SILENT,
) -> ConvertReport:
    """Export a model to ONNX, check its parity, and convert the file to another format.

    A step that fails its parity check ends the chain.

    Args:
        model: the model; ``model``, ``dynamic``, ``opset`` and ``strategy`` are those of `deploy.export_model`.
        format: ``onnx``, ``tensorrt``, or another format that a chain of exporters reaches.
        artifacts: the artifacts directory; default ``$DEPLOY_ARTIFACTS``, else ``./artifacts``.
        dynamic: dimensions to keep dynamic; an engine gets the default ranges of `BuildRequest`.
        opset: the ONNX opset.
        precision: ``fp32`` or ``fp16``, of the last file; the export that an engine is built from is float32.
        strategy: how to export the model.
        samples: real samples for the parity check of the export.
        progress: receives progress messages.

    Raises:
        UnknownNameError: no chain of exporters reaches the format.
        DeployError: as `deploy.export_model` and `deploy.build_engine`.
    """
    first, *rest = route(format)
    if first != MODEL_EXPORTER:
        raise UsageError(f"--format {format}: {first} starts from a PyTorch model; only {MODEL_EXPORTER} can do that.")
    export = export_model(
        model,
        artifacts=artifacts,
        dynamic=dynamic,
        opset=opset,
        precision="fp32" if ENGINE_EXPORTER in rest else precision,
        strategy=strategy,
        samples=samples,
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
            request = BuildRequest(model=artifact.path, fp16=precision == "fp16")
            engine = build_engine(request, artifacts=artifacts, progress=progress)
            artifact, verdict = engine.artifact, engine.verdict or verdict
        else:
            step = run_exporter(edge, artifact, Store(artifacts or default_root()), progress)
            converted.append(step)
            artifact, verdict = step.artifact, step.verdict or verdict
    return ConvertReport(export=export, engine=engine, converted=tuple(converted))


def route(format: str, edges: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the shortest chain of exporters ``A_to_B`` from a PyTorch model to a format.

    ``edges`` replaces the exporters of this package and of third parties.

    Raises:
        UnknownNameError: no chain reaches the format.
    """
    names = [name for name in (edges or registry.names(EDGES)) if "_to_" in name]
    chains: dict[str, tuple[str, ...]] = {START: ()}
    queue = [START]
    for here in queue:  # breadth first: the queue grows during the loop
        for name in names:
            begin, _, end = name.partition("_to_")
            if begin == here and end not in chains:
                chains[end] = (*chains[here], name)
                queue.append(end)
    known = sorted(set(chains) - {START})
    if format not in known:
        raise UnknownNameError("format", format, known, f"known: {', '.join(known)}")
    return chains[format]
