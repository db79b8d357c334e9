"""Results on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.support.formatting import size
from deploy.terminal.markup import escape

if TYPE_CHECKING:
    from deploy.core.model import Weights
    from deploy.exporting.check import CheckReport
    from deploy.exporting.export import ExportReport
    from deploy.models.catalog import LayerSummary, ModelLine
    from deploy.parity.locate import Location
    from deploy.parity.verdict import OutputParity, ParityReport
    from deploy.tools.doctor import DoctorReport
    from deploy.tools.inspect import InspectReport

STYLE = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}


def console(piped: int | None = None) -> Console:
    """A console on stdout.

    Args:
        piped: characters in a line where stdout is no terminal; None for the usual 80.
    """
    out = Console(highlight=False, soft_wrap=True)
    return out if out.is_terminal or piped is None else Console(highlight=False, soft_wrap=True, width=piped)


def rows(pairs: Iterable[tuple[str, str]]) -> Table:
    """Two columns: what, and its value."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value)
    return table


def weights_line(weights: Weights) -> str:
    """Where the weights came from; untrained ones cannot be missed."""
    if weights.trained:
        return escape(weights.source)
    return f"[bold yellow]UNTRAINED[/] (seed {weights.seed}): seeded random numbers, worthless for predictions"


def parity_rows(report: ParityReport) -> list[tuple[str, str]]:
    """The proof, in lines."""
    pairs = [("parity", _headline(report))]
    pairs.extend(("", escape(reason)) for reason in report.reasons[:5])
    worst = report.worst()
    if worst is not None and worst.verdict != "inconclusive" and worst.samples:
        pairs.append(("noise / signal", _ratios(worst, report.precision)))
    blind = [item for item in report.outputs if item.group != "unit" and item.verdict == "inconclusive"]
    pairs.extend(("", f"not judged: {escape(item.output)} at {item.group} probes ({item.reason})") for item in blind)
    if report.weights is not None:
        pairs.append(("weights", _accounts(report.weights)))
    pairs.extend(("note", escape(note)) for note in report.notes)
    return pairs


def _headline(report: ParityReport) -> str:
    run = "; ".join(f"{name} {', '.join(map(str, sizes))}" for name, sizes in report.dynamic.items())
    over = f"{report.probes} probes" + (f", run at {escape(run)}" if run else ", fixed sizes")
    return f"[{STYLE[report.verdict]}]{report.verdict}[/]  ({over})"


def _ratios(item: OutputParity, precision: str) -> str:
    margin = "" if not math.isfinite(item.margin) else f"; margin {item.margin:.1f}×"
    return (
        f"ONNX Runtime {item.candidate:.1e}, PyTorch's own {precision} {item.torch:.1e} "
        f"(limit {item.envelope:.0f}×{margin}; {escape(item.output)}, {item.group} probes)"
    )


def _accounts(weights: Any) -> str:
    words = {
        "identical": "identical",
        "folded": "folded into convolutions and recomputed",
        "gathered": "looked up",
        "unused": "not read by the model",
        "listed": "not found as such (computed into other constants, or changed)",
    }
    counts = weights["counts"]
    text = ", ".join(f"{counts[key]} {words[key]}" for key in words if counts[key])
    named = ", ".join(weights["listed"][:3]) + (" …" if len(weights["listed"]) > 3 else "")
    return text + (f": {escape(named)}" if named else "")


def show_export(report: ExportReport) -> None:
    """The closing summary of an export."""
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
            *parity_rows(report.parity),
            ("took", f"{report.seconds:.1f} s"),
        ]
    )
    console().print(table)


def _more(files: Sequence[Any]) -> str:
    return "" if len(files) == 1 else f" in {len(files)} files ({', '.join(item.file for item in files)})"


def show_check(report: CheckReport) -> None:
    """The verdict on a file."""
    pairs = [
        ("file", f"[bold]{escape(str(report.path))}[/]"),
        ("model", escape(report.model.name)),
        ("trained", weights_line(report.model.weights)),
        *parity_rows(report.parity),
    ]
    if report.located and report.location is not None:
        pairs.extend(_location_rows(report.location, report.parity.verdict))
    console().print(rows(pairs))


def _location_rows(found: Location, verdict: str) -> list[tuple[str, str]]:
    counted = f"{found.agreed} of {found.compared} tensors have their counterpart in the model"
    if not found.tensor:
        where = "; the difference arises in ONNX Runtime's graph optimizations" if verdict == "fail" else ""
        return [("located", f"every tensor agrees when nodes run one at a time{where} ({counted})")]
    noise = (
        "no tensor of the model has its size"
        if found.noise is None or found.own is None
        else (f"noise / signal {found.noise:.1e}, PyTorch's own {found.own:.1e}")
    )
    return [
        ("first to differ", f"[bold]{escape(found.tensor)}[/] ({noise})"),
        ("node", escape(f"{found.node} ({found.operator})")),
        ("module", escape(found.module or "not recorded")),
        ("last to agree", escape(found.after or "the input")),
        ("", counted),
    ]


def show_inspect(report: InspectReport) -> None:
    """What a file holds."""
    at = ", ".join(f"{name} {size}" for name, size in report.sizes.items()) or "its fixed sizes"
    costs = report.costs
    manifest = report.artifact.manifest if report.artifact else None
    parity = manifest.parity["verdict"] if manifest and manifest.parity else "no manifest beside it: nobody proved it"
    operators = ", ".join(f"{name} {count}" for name, count in report.operators.items())
    unknown = ", ".join(f"{name} {count}" for name, count in costs.unknown.items())
    console().print(
        rows(
            [
                ("file", f"[bold]{escape(str(report.path))}[/]"),
                ("size", size(report.bytes)),
                ("sha256", report.sha256),
                ("parity", parity),
                ("made by", escape(report.producer)),
                ("opset", str(report.opset)),
                ("inputs", escape("; ".join(map(str, report.inputs)))),
                ("outputs", escape("; ".join(map(str, report.outputs)))),
                ("parameters", f"{report.parameters:,} ({size(report.parameter_bytes)})"),
                ("operations", f"{costs.operations / 1e9:.3f} G at {escape(at)} (a multiply-add is two)"),
                ("bytes moved", f"{size(costs.bytes)} at {escape(at)}"),
                ("operators", escape(operators)),
                *([("cost unknown", escape(unknown))] if unknown else []),
            ]
        )
    )


def show_doctor(report: DoctorReport) -> None:
    """What works and what does not."""
    signs = {"works": "[green]works[/]", "absent": "[yellow]absent[/]", "broken": "[bold red]BROKEN[/]"}
    table = Table.grid(padding=(0, 2))
    for finding in report.findings:
        table.add_row(signs[finding.state], finding.name, escape(finding.detail))
        if finding.fix:
            table.add_row("", "", f"[dim]fix:[/] {escape(finding.fix)}")
    console().print(table)


def show_models(lines: Sequence[ModelLine]) -> None:
    """One line a model."""
    cells = [
        (line.name, f"{line.parameters:,}" if line.parameters is not None else "", line.input or "") for line in lines
    ]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for at, name in enumerate(("model", "parameters", "input")):
        whole = max(len(name), *(len(row[at]) for row in cells))
        table.add_column(name, justify="right" if name == "parameters" else "left", no_wrap=True, min_width=whole)
    table.add_column(style="dim")  # the one that gives way where the terminal is narrow
    for row, line in zip(cells, lines, strict=True):
        table.add_row(*row, Text(line.summary, no_wrap=True, overflow="ellipsis"))
    console().print(table)


def show_layers(name: str, layers: Sequence[LayerSummary]) -> None:
    """The layer table of a model, with totals."""
    table = Table(box=None, pad_edge=False, header_style="dim", title=name, title_justify="left")
    for column in ("layer", "kind", "output shape"):
        table.add_column(column)
    for column in ("parameters", "multiply-adds"):
        table.add_column(column, justify="right")
    for layer in layers:
        cost = (
            "not counted" if layer.multiply_adds is None else f"{layer.multiply_adds:,}" if layer.multiply_adds else ""
        )
        shape = "×".join(map(str, layer.shape))
        table.add_row(layer.name, layer.kind, shape, f"{layer.parameters:,}" if layer.parameters else "", cost)
    total = sum(layer.multiply_adds or 0 for layer in layers)
    table.add_row("total", "", "", f"{sum(layer.parameters for layer in layers):,}", f"{total:,}", style="bold")
    console().print(table)
