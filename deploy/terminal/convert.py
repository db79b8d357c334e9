"""Terminal output of ``deploy convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.core.backend import ONNX, default_backend
from deploy.core.start import since_start
from deploy.support.formatting import size
from deploy.terminal.check import parity_rows
from deploy.terminal.console import console, escape, rows
from deploy.terminal.plan import plan_rows

if TYPE_CHECKING:
    from deploy.quantization.half import HalfReport


def show_half(report: HalfReport) -> None:
    """Print the plan, and the result of the check."""
    manifest = report.artifact.manifest
    pairs = [
        ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
        ("size", size(sum(item.bytes for item in manifest.files))),
        ("original", escape(str(report.source))),
        *plan_rows(report.plan),
        *parity_rows(report.parity, default_backend(ONNX).title),
        *(("note", escape(note)) for note in report.notes),
        ("took", f"{since_start():.1f} s"),
    ]
    console().print(rows(pairs))
