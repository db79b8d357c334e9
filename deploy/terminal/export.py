"""Terminal output of ``deploy export``: the export, and the conversions after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.core.backend import ONNX, default_backend, title_of
from deploy.core.start import since_start
from deploy.exporting.export import ExportReport
from deploy.support.formatting import size
from deploy.terminal.check import parity_rows
from deploy.terminal.console import console, escape, rows, weights_line
from deploy.terminal.plan import plan_rows
from deploy.terminal.trt import show_built

if TYPE_CHECKING:
    from deploy.engines.convert import Converted, ConvertReport


def show_export(report: ExportReport | ConvertReport) -> None:
    """Print the summary of an export and of what was made from it."""
    if isinstance(report, ExportReport):
        _show_onnx(report)
        return
    _show_onnx(report.export, step=True)
    if report.engine is not None:
        show_built(report.engine, step=True)
    for step in report.converted:
        _show_converted(step)


def _show_onnx(report: ExportReport, *, step: bool = False) -> None:
    manifest = report.artifact.manifest
    dynamic = ", ".join(dict.fromkeys(symbol for spec in manifest.inputs for symbol in spec.symbols)) or "none"
    names = [item.file for item in manifest.files]
    several = "" if len(names) == 1 else f" in {len(names)} files ({', '.join(names)})"
    table = rows(
        [
            ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
            ("size", size(sum(item.bytes for item in manifest.files)) + several),
            ("model", escape(manifest.model)),
            ("trained", weights_line(manifest.weights)),
            ("graph", f"opset {report.opset}, {manifest.precision}, by {report.strategy}, dynamic: {dynamic}"),
            ("inputs", escape("; ".join(map(str, manifest.inputs)))),
            ("outputs", escape("; ".join(map(str, manifest.outputs)))),
            *plan_rows(report.plan),
            *parity_rows(report.parity, default_backend(ONNX).title),
            ("took", f"{report.seconds if step else since_start():.1f} s"),
        ]
    )
    console().print(table)


def _show_converted(step: Converted) -> None:
    document = step.to_dict()
    files = document["files"]
    reasons = step.parity.reasons[:5] if step.parity else ("the exporter declares no backend that runs the file",)
    pairs = [
        ("file", f"[bold]{escape(str(step.artifact.path))}[/]"),
        ("size", size(document["bytes"]) + (f" in {len(files)} files" if len(files) > 1 else "")),
        ("exporter", escape(f"{step.edge}, {document['precision']}")),
        ("state", escape(document["state"] + (f", by {title_of(step.backend)}" if step.backend else ""))),
        *(("", escape(reason)) for reason in reasons),
        ("took", f"{step.seconds:.1f} s"),
    ]
    console().print(rows(pairs))
