"""Where the time of a cell goes, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from deploy.support.formatting import duration
from deploy.terminal.markup import escape
from deploy.terminal.results import console, rows

if TYPE_CHECKING:
    from deploy.bench.layers import LayerTime
    from deploy.bench.profile import Explanation

SHOWN = 12
NAMED = 6


def show_explained(found: Sequence[Explanation]) -> None:
    """Every cell in turn: by operator, the longest layers, and in eight bits what keeps it from being faster."""
    for item in found:
        profile, out = item.profile, console(piped=120)
        total = profile.total_ns or 1.0
        out.print(f"\n[bold]{escape(str(item.plan.cell))}[/], {item.plan.cell.threads} threads")
        kinds = ", ".join(f"{name} {value / total:.0%}" for name, value in list(profile.by_operator().items())[:8])
        pairs = [
            ("a call", f"{duration(profile.wall_ns)}; in layers {duration(total)} (the profiler's own time included)"),
            ("by operator", escape(kinds)),
            ("rounding", f"{profile.share('qdq'):.0%} in Q/DQ and casts of their own"),
            ("moving", f"{profile.share('reformat'):.0%} in reorders and reshapes"),
            *_eight_bits(item),
        ]
        out.print(rows(pairs))
        out.print(_layers(profile.layers[:SHOWN], total))


def _eight_bits(item: Explanation) -> list[tuple[str, str]]:
    if item.before is None:
        return []
    ratio = item.before.wall_ns / item.profile.wall_ns
    pairs = [("beside float", f"{duration(item.before.wall_ns)}: {ratio:.2f}× as fast in eight bits")]
    if item.in_float:
        pairs.append(("still in float", _named(item.in_float)))
    if item.unfused:
        pairs.append(("Q/DQ not fused", _named(item.unfused)))
    if item.slower:
        worse = [f"{layer.layer} ({duration(was)} → {duration(layer.ns)})" for layer, was in item.slower[:NAMED]]
        pairs.append(("slower than in float", escape(", ".join(worse))))
    return pairs


def _named(layers: Sequence[LayerTime]) -> str:
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return escape(", ".join(f"{item.layer} ({duration(item.ns)})" for item in layers[:NAMED]) + more)


def _layers(layers: Sequence[LayerTime], total: float) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("layer", "operator", "in"):
        table.add_column(name, overflow="fold")
    for name in ("a call", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for item in layers:
        cells = (escape(item.layer), item.operator, item.arithmetic, duration(item.ns))
        table.add_row(*cells, f"{item.ns / total:.1%}")
    return table
