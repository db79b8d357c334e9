"""Terminal output of ``deploy edit``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.core.backend import ONNX, default_backend
from deploy.core.start import since_start
from deploy.support.formatting import size
from deploy.terminal.check import location_rows, parity_rows
from deploy.terminal.console import console, escape, rows

if TYPE_CHECKING:
    from deploy.exporting.edit import EditReport


def show_edit(report: EditReport) -> None:
    """Print what was changed, and the result of the check."""
    manifest, backend = report.artifact.manifest, default_backend(ONNX).title
    opsets = f"{report.opset_before}" + (f" → {report.opset_after}" * (report.opset_after != report.opset_before))
    pairs = [
        ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
        ("size", size(sum(item.bytes for item in manifest.files))),
        ("original", escape(str(report.source))),
        ("graph", f"opset {opsets}, {manifest.precision}"),
        ("inputs", escape("; ".join(map(str, manifest.inputs)))),
        ("outputs", escape("; ".join(map(str, manifest.outputs)))),
    ]
    for change in report.changes:
        counts = (
            ""
            if change.nodes_before == change.nodes_after
            else f"  ({change.nodes_before} → {change.nodes_after} nodes)"
        )
        shown = change.detail if "nodes" in change.detail else change.detail + counts
        pairs.append((change.edit.replace("_", "-"), escape(shown)))
    pairs += parity_rows(report.parity, backend)
    if report.location is not None:
        pairs += location_rows(report.location, report.verdict, backend)
    pairs.append(("took", f"{since_start():.1f} s"))
    console().print(rows(pairs))
