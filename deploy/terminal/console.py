"""Console, tables and markup that all commands share."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import rich.markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deploy.core.text import visible
from deploy.terminal import results

if TYPE_CHECKING:
    from deploy.core.model import Preprocessing, Weights

STYLE = {
    "pass": "bold green",
    "fail": "bold red",
    "poor": "bold red",
    "inconclusive": "bold yellow",
    "unproven": "bold yellow",
}
"""Rich styles of verdicts."""


def console(piped: int | None = None) -> Console:
    """Return a console on the stream of results; ``piped`` is its width if that is no terminal, in characters.

    The default width is 80.
    """
    file = results.stream()
    out = Console(file=file, highlight=False, soft_wrap=True)
    if out.is_terminal or piped is None:
        return out
    return Console(file=file, highlight=False, soft_wrap=True, width=piped)


def escape(text: str) -> str:
    """Return text that prints literally: Rich markup and terminal control characters in it have no effect."""
    return rich.markup.escape(visible(text))


def rows(pairs: Iterable[tuple[str, str]]) -> Table:
    """Return a two-column table of names and values, both Rich markup."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value)
    return table


def table(*heads: str, numbers: Collection[str] = (), title: str | None = None) -> Table:
    """Return an empty table with a line below its heads; columns of numbers are right-aligned, the others fold."""
    text = None if title is None else escape(title)
    result = Table(title=text, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in heads:
        right = head in numbers
        result.add_column(head, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return result


def preprocessing_line(recipe: Preprocessing | None) -> str:
    """Return a preprocessing in words; empty if there is none."""
    if recipe is None:
        return ""
    before = f"resize the shorter side to {recipe.resize}, " if recipe.resize else ""
    crop = " × ".join(map(str, recipe.crop))
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (recipe.mean, recipe.std))
    verb = "crop" if recipe.resize else "resize" if recipe.letterbox is None else f"letterbox ({recipe.letterbox:g})"
    return f"{before}{verb} to {crop} ({escape(recipe.interpolation)}), mean {mean}, std {std}"


def weights_line(weights: Weights) -> str:
    """Return the origin of weights as Rich markup; untrained weights stand out."""
    if weights.trained:
        return escape(weights.source)
    return f"[bold yellow]UNTRAINED[/] (seed {weights.seed}): random weights, predictions are meaningless"
