"""Terminal output of ``deploy export``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deploy.core.backend import ONNX, default_backend
from deploy.support.formatting import size
from deploy.terminal.check import parity_rows
from deploy.terminal.console import console, escape, rows, weights_line

if TYPE_CHECKING:
    from deploy.exporting.export import ExportReport


def show_export(report: ExportReport) -> None:
    """Print the summary of an export."""
    manifest = report.artifact.manifest
    dynamic = ", ".join(dict.fromkeys(symbol for spec in manifest.inputs for symbol in spec.symbols)) or "none"
    table = rows(
        [
            ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
            ("size", size(sum(item.bytes for item in manifest.files)) + _more(manifest.files)),
            ("model", escape(manifest.model)),
            ("trained", weights_line(manifest.weights)),
            (
                "graph",
                f"opset {report.opset}, {manifest.precision}, by {report.strategy}, dynamic: {dynamic}",
            ),
            ("inputs", escape("; ".join(map(str, manifest.inputs)))),
            ("outputs", escape("; ".join(map(str, manifest.outputs)))),
            *parity_rows(report.parity, default_backend(ONNX).title),
            ("took", f"{report.seconds:.1f} s"),
        ]
    )
    console().print(table)


def _more(files: Sequence[Any]) -> str:
    return "" if len(files) == 1 else f" in {len(files)} files ({', '.join(item.file for item in files)})"
