"""``deploy export --format``: the exporters' file names are edges, and a format is reached by a chain of them."""

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
from deploy.engines.edges import EDGES, Converted, take
from deploy.exporting.export import ExportReport, export_model
from deploy.exporting.samples import ProbeSamples
from deploy.models.request import ModelRequest

START = "torch"
FIRST = "torch_to_onnx"
"""The exporter of models: what comes after it starts from a file that was proven."""

ENGINE = "onnx_to_tensorrt"
"""The exporter with a workflow of its own: it has options, profiles, and a proof that keeps to them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertReport:
    """What `convert` made.

    Attributes:
        export: the ONNX file with its proof.
        engine: what was built of it; None where no engine was asked for, or where the export failed its proof.
        converted: what other exporters made, in order; likewise.
    """

    export: ExportReport
    engine: BuildReport | None = None
    converted: tuple[Converted, ...] = ()

    @property
    def verdict(self) -> str:
        """The first that is not ``pass``, of the export and of what was made of it and run; else ``pass``."""
        found: list[str | None] = [self.export.parity.verdict, self.engine.verdict if self.engine else None]
        found += [item.verdict for item in self.converted]
        return next((verdict for verdict in found if verdict not in ("pass", None)), None) or "pass"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the export's; under ``engine`` the engine's, under ``converted`` the others'."""
        document = self.export.to_dict()
        if self.engine is not None:
            document["engine"] = self.engine.to_dict()
        if self.converted:
            document["converted"] = [item.to_dict() for item in self.converted]
        return document


def route(format: str, edges: Sequence[str] | None = None) -> tuple[str, ...]:
    """The shortest chain of exporters from a PyTorch model to a format.

    Args:
        format: ``onnx``, ``tensorrt`` ….
        edges: names ``A_to_B``; default: the files of the package ``exporters`` and what third parties add.

    Raises:
        UnknownNameError: no chain ends there.
    """
    names = [name for name in (edges or registry.names(EDGES)) if "_to_" in name]
    chains: dict[str, tuple[str, ...]] = {START: ()}
    reached = [START]
    for here in reached:  # grows while it is walked: breadth first
        for name in names:
            begin, _, end = name.partition("_to_")
            if begin == here and end not in chains:
                chains[end] = (*chains[here], name)
                reached.append(end)
    if format not in chains or format == START:
        known = sorted(set(chains) - {START})
        raise UnknownNameError("format", format, known, f"known: {', '.join(known)}")
    return chains[format]


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
    """Export a model, prove it, and go on to the format that is wanted.

    Args:
        model: as for `deploy.exporting.export.export_model`, like everything that is not said here.
        format: ``onnx``, or what can be made of it.
        artifacts: the artifacts directory.
        dynamic: dimensions that stay open; an engine gets the ranges that `BuildRequest` gives by default.
        opset: the ONNX operator set.
        precision: of what is made last; an engine's export stays float32.
        strategy: of the exporter.
        samples: real samples for the proof.
        progress: told what happens.

    Raises:
        DeployError: see `deploy.core.errors`.
    """
    first, *rest = route(format)
    if first != FIRST:
        raise UsageError(f"{format}: {first} begins at a PyTorch model, which only {FIRST} does.")
    export = export_model(
        model,
        artifacts=artifacts,
        dynamic=dynamic,
        opset=opset,
        precision="fp32" if ENGINE in rest else precision,
        strategy=strategy,
        samples=samples,
        progress=progress,
    )
    engine: BuildReport | None = None
    converted: list[Converted] = []
    here = export.artifact
    verdict: str = export.parity.verdict
    for edge in rest:
        if verdict == "fail":
            break
        if edge == ENGINE:
            request = BuildRequest(model=here.path, fp16=precision == "fp16")
            engine = build_engine(request, artifacts=artifacts, progress=progress)
            here, verdict = engine.artifact, engine.verdict or verdict
        else:
            step = take(edge, here, Store(artifacts or default_root()), progress)
            converted.append(step)
            here, verdict = step.artifact, step.verdict or verdict
    return ConvertReport(export=export, engine=engine, converted=tuple(converted))
