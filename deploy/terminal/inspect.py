"""Terminal output of ``deploy inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deploy.support.formatting import size
from deploy.terminal.console import console, escape, rows
from deploy.terminal.plan import recorded_rows

if TYPE_CHECKING:
    from deploy.tools.inspect import InspectReport


def show_inspect(report: InspectReport) -> None:
    """Print the description of an ONNX file."""
    at = _named_numbers(report.sizes) or "the fixed sizes"
    costs = report.costs
    manifest = report.artifact.manifest if report.artifact else None
    coverage = (manifest.parity or {}).get("coverage") if manifest else None
    parity = report.verdict + (f" · coverage {coverage['percent']:g} %" if coverage else "")
    pairs = [
        ("file", f"[bold]{escape(str(report.path))}[/]"),
        ("size", size(report.bytes)),
        ("sha256", report.sha256),
        ("parity", parity),
        ("producer", escape(report.producer)),
        ("opset", str(report.opset)),
        ("inputs", escape("; ".join(map(str, report.inputs)))),
        ("outputs", escape("; ".join(map(str, report.outputs)))),
        ("parameters", f"{report.parameters:,} ({size(report.parameter_bytes)})"),
        ("operations", f"{costs.operations / 1e9:.3f} G at {escape(at)} (a multiply-add counts as two)"),
        ("bytes moved", f"{size(costs.bytes)} at {escape(at)}"),
        ("operators", escape(_named_numbers(report.operators))),
    ]
    if report.stale:
        pairs.insert(4, ("stale", escape(f"{report.stale.reason}; renew it: {report.stale.command}")))
    if manifest is not None:
        pairs += recorded_rows(manifest.options)
    if costs.unknown:
        pairs.append(("cost unknown", escape(_named_numbers(costs.unknown))))
    console().print(rows(pairs))


def _named_numbers(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())
