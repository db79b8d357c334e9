"""``deploy export --format``: the exporters' file names are edges, and a format is reached by a chain of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core import registry
from deploy.core.errors import UnknownNameError
from deploy.core.progress import SILENT, Progress
from deploy.models.request import ModelRequest
from deploy.workflows._samples import Samples
from deploy.workflows.build import BuildReport, BuildRequest, build_engine
from deploy.workflows.export import ExportReport, export_model

EDGES = "exporters"
START = "torch"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertReport:
    """What `convert` made.

    Attributes:
        export: the ONNX file with its proof.
        engine: what was made of it; None where ONNX was asked for, or where the export failed its proof.
    """

    export: ExportReport
    engine: BuildReport | None

    @property
    def verdict(self) -> str:
        """The engine's, where it was run and is no better than the export's; else the export's."""
        export, engine = self.export.parity.verdict, self.engine.verdict if self.engine else None
        return engine if export == "pass" and engine is not None else export

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the export's, and under ``engine`` the engine's."""
        document = self.export.to_dict()
        return document if self.engine is None else {**document, "engine": self.engine.to_dict()}


def route(format: str, edges: Sequence[str] | None = None) -> tuple[str, ...]:
    """The shortest chain of exporters from a PyTorch model to a format.

    Args:
        format: ``onnx``, ``tensorrt`` ….
        edges: names ``A_to_B``; default: the files of the package ``exporters``.

    Raises:
        UnknownNameError: no chain ends there.
    """
    names = [name for name in (edges or registry.own_names(EDGES)) if "_to_" in name]
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
    samples: Samples | None = None,
    progress: Progress = SILENT,
) -> ConvertReport:
    """Export a model, prove it, and go on to the format that is wanted.

    Args:
        model: as for `deploy.workflows.export.export_model`, like everything that is not said here.
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
    unknown = [edge for edge in rest if edge not in _STEPS]
    if first != "torch_to_onnx" or unknown:
        raise UnknownNameError("exporter", (unknown or [first])[0], _STEPS)
    export = export_model(
        model,
        artifacts=artifacts,
        dynamic=dynamic,
        opset=opset,
        precision="fp32" if rest else precision,
        strategy=strategy,
        samples=samples,
        progress=progress,
    )
    if not rest or export.parity.verdict == "fail":
        return ConvertReport(export=export, engine=None)
    return ConvertReport(export=export, engine=_STEPS[rest[0]](export, precision, artifacts, progress))


def _engine(export: ExportReport, precision: str, artifacts: Path | None, progress: Progress) -> BuildReport:
    request = BuildRequest(model=export.artifact.path, fp16=precision == "fp16")
    return build_engine(request, artifacts=artifacts, progress=progress)


_STEPS: dict[str, Callable[[ExportReport, str, Path | None, Progress], BuildReport]] = {"onnx_to_tensorrt": _engine}
"""What takes an export further."""
