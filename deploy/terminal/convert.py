"""Terminal output of the conversions after an export, ``deploy export --format``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.core.backend import title_of
from deploy.support.formatting import size
from deploy.terminal.console import console, escape, rows

if TYPE_CHECKING:
    from deploy.engines.convert import Converted


def show_converted(step: Converted) -> None:
    """Print the summary of one conversion."""
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
