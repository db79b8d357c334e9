"""Terminal output of ``deploy adopt``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.core.artifact import manifest_path
from deploy.terminal.console import console, escape, preprocessing_line, rows

if TYPE_CHECKING:
    from deploy.tools.adopt import AdoptReport


def show_adopted(report: AdoptReport) -> None:
    """Print what the manifest says."""
    path, manifest = report.artifact.path, report.artifact.manifest
    pairs = [
        ("file", f"[bold]{escape(str(path))}[/]"),
        ("manifest", escape(str(manifest_path(path))) + (", replaced" if report.replaced else "")),
        ("model", escape(manifest.model)),
        ("precision", manifest.precision),
        ("inputs", escape("; ".join(map(str, manifest.inputs)))),
        ("outputs", escape("; ".join(map(str, manifest.outputs)))),
        ("preprocessing", preprocessing_line(manifest.preprocessing)),
        ("classes", f"{len(manifest.labels)}: {escape(', '.join(manifest.labels[:5]))}" if manifest.labels else ""),
        ("parity", f"{manifest.verdict}: no model is known to compare the file with"),
    ]
    console().print(rows(pair for pair in pairs if pair[1]))
