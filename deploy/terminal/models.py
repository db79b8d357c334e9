"""Terminal output of ``deploy models``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from deploy.terminal.console import console

if TYPE_CHECKING:
    from deploy.models.known import ModelLine
    from deploy.models.layers import LayerSummary


def show_models(lines: Sequence[ModelLine]) -> None:
    """Print one line per model."""
    cells = [
        (line.name, f"{line.parameters:,}" if line.parameters is not None else "", line.input or "") for line in lines
    ]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, name in enumerate(("model", "parameters", "input")):
        width = max(len(name), *(len(row[column]) for row in cells))
        table.add_column(name, justify="right" if name == "parameters" else "left", no_wrap=True, min_width=width)
    table.add_column(style="dim")  # the summary, which is cut on a narrow terminal
    for row, line in zip(cells, lines, strict=True):
        table.add_row(*row, Text(line.summary, no_wrap=True, overflow="ellipsis"))
    console().print(table)


def show_layers(name: str, layers: Sequence[LayerSummary]) -> None:
    """Print the layer table of a model, with totals."""
    table = Table(box=None, pad_edge=False, header_style="dim", title=name, title_justify="left")
    for column in ("layer", "kind", "output shape"):
        table.add_column(column)
    for column in ("parameters", "multiply-adds"):
        table.add_column(column, justify="right")
    for layer in layers:
        cost = "unknown" if layer.multiply_adds is None else f"{layer.multiply_adds:,}" if layer.multiply_adds else ""
        shape = "×".join(map(str, layer.shape))
        table.add_row(layer.name, layer.kind, shape, f"{layer.parameters:,}" if layer.parameters else "", cost)
    total = sum(layer.multiply_adds or 0 for layer in layers)
    table.add_row("total", "", "", f"{sum(layer.parameters for layer in layers):,}", f"{total:,}", style="bold")
    console().print(table)
