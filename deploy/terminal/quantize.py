"""What was quantized, on a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from deploy.support.formatting import size
from deploy.terminal.markup import escape
from deploy.terminal.results import STYLE, console, rows, weights_line

if TYPE_CHECKING:
    from deploy.core.model import Preprocessing
    from deploy.quantization.evidence import Evidence
    from deploy.quantization.quantize import QuantizeReport

LAYERS = 10


def show_quantized(report: QuantizeReport, details: bool) -> None:
    """The closing summary; with ``details`` the layers with the most noise."""
    manifest = report.artifact.manifest
    data = report.data
    apart = "apart from those" if data.apart else "the same"
    pairs = [
        ("file", f"[bold]{escape(str(report.artifact.path))}[/]"),
        ("size", size(sum(item.bytes for item in manifest.files))),
        ("model", escape(manifest.model)),
        ("trained", weights_line(manifest.weights)),
        ("target", escape(str(manifest.target))),
        ("calibrated with", _samples(report)),
        ("images", _recipe(manifest.preprocessing)),
        ("judged on", f"{data.evidence.count} samples, {apart}, by {escape(report.evidence.runtime)}"),
        *_evidence(report.evidence),
        ("verdict", f"[{STYLE.get(report.verdict, 'bold')}]{report.verdict}[/]{_why(report)}"),
    ]
    if report.plan is not None and report.plan.steps:
        pairs.append(("in float", f"{len(report.plan.steps)} layers: " + _named(report)))
    console().print(rows(pair for pair in pairs if pair[1]))
    if details:
        console().print(_layers(report))


def _samples(report: QuantizeReport) -> str:
    table, name = report.table, escape(str(report.data.calibration.summary["name"]))
    moved = "" if table.moved is None else f"; ranges moved {table.moved:.1%} in the last quarter"
    taken = "; ranges taken from before" if report.reused else ""
    return f"{table.samples} samples of {name}, {table.key['method']}{moved}{taken}"


def _recipe(recipe: Preprocessing | None) -> str:
    if recipe is None:
        return ""
    before = f"shorter side to {recipe.resize}, " if recipe.resize else ""
    crop = " × ".join(map(str, recipe.crop))
    return (
        f"{before}{'cut' if recipe.resize else 'resized'} to {crop} ({recipe.interpolation}), "
        f"mean {_values(recipe.mean)}, std {_values(recipe.std)}"
    )


def _values(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _evidence(evidence: Evidence) -> list[tuple[str, str]]:
    pairs = []
    for item in evidence.outputs:
        told = "nothing varies" if item.sqnr_db is None else _decibels(item.sqnr_db)
        agrees = "" if item.agreement is None else f", same top-1 on {item.agreement:.1%}"
        broken = f", [bold red]{item.not_finite} samples not finite[/]" if item.not_finite else ""
        pairs.append((f"{escape(item.output)}", f"SQNR {told}, cosine {item.cosine:.5f}{agrees}{broken}"))
    if evidence.accuracy and evidence.float_accuracy and evidence.comparison:
        low, high = (100 * end for end in evidence.accuracy.top1_interval)
        pairs.append(
            (
                "top-1",
                f"{evidence.accuracy.top1:.2%} ({low:.1f} to {high:.1f} %), float {evidence.float_accuracy.top1:.2%}: "
                f"{escape(evidence.comparison.verdict)}; confidence {evidence.comparison.confidence_shift:+.4f}",
            )
        )
    return pairs


def _decibels(value: float) -> str:
    return "identical" if value == math.inf else f"{value:.1f} dB"


def _why(report: QuantizeReport) -> str:
    if report.reasons:
        return ": " + escape("; ".join(report.reasons))
    return ": no bound was given (--max-drop, --min-sqnr)" if report.verdict == "measured" else ""


def _named(report: QuantizeReport) -> str:
    steps = report.plan.steps if report.plan else ()
    shown = ", ".join(escape(step.layer) for step in steps[:5])
    return shown + (" …" if len(steps) > 5 else "")


def _layers(report: QuantizeReport) -> Table:
    table = Table(title="layers with the most noise, all rounding before them included", title_justify="left", box=None)
    for name in ("layer", "operator", "tensor"):
        table.add_column(name, overflow="fold")
    table.add_column("SQNR", justify="right")
    for item in report.worst[:LAYERS]:
        table.add_row(escape(item.layer), item.operator, escape(item.tensor), _decibels(item.sqnr_db))
    return table
