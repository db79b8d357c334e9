"""Terminal output of ``deploy profile``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deploy.core.artifact import UNPROVEN
from deploy.support.formatting import duration
from deploy.terminal.console import console, escape, rows, table

if TYPE_CHECKING:
    from deploy.bench.profile import LayerTime, ProfiledCell

LAYERS_SHOWN = 12
LAYERS_NAMED = 6


def show_profiles(found: Sequence[ProfiledCell]) -> None:
    """Print each configuration's time by operator, its slowest layers and, for INT8, what limits its speedup."""
    for item in found:
        profile, out = item.profile, console(piped=120)
        total = profile.total_ns or 1.0
        unproven = f", {UNPROVEN}" if (item.plan.evidence or {}).get("verdict") == UNPROVEN else ""
        out.print(f"\n[bold]{escape(str(item.plan.cell))}[/], {item.plan.cell.threads} threads{unproven}")
        kinds = ", ".join(f"{name} {value / total:.0%}" for name, value in list(profile.by_operator().items())[:8])
        pairs = [
            ("latency", f"{duration(profile.wall_ns)}; sum over layers {duration(total)}, with profiler overhead"),
            ("by operator", escape(kinds)),
            ("Q/DQ", f"{profile.share('qdq'):.0%} in separate Q/DQ and cast operators"),
            ("layout", f"{profile.share('reformat'):.0%} in reorders, transposes and reshapes"),
            *_int8_rows(item),
        ]
        out.print(rows(pairs))
        layers = table("layer", "operator", "arithmetic", "time", "share", numbers=("time", "share"))
        for layer in profile.layers[:LAYERS_SHOWN]:
            cells = (escape(layer.label), layer.operator, layer.arithmetic, duration(layer.ns))
            layers.add_row(*cells, f"{layer.ns / total:.1%}")
        out.print(layers)


def _int8_rows(item: ProfiledCell) -> list[tuple[str, str]]:
    if item.before is None:
        return []
    speedup = item.before.wall_ns / item.profile.wall_ns
    pairs = [("float32 latency", f"{duration(item.before.wall_ns)}; INT8 speedup {speedup:.2f}×")]
    if item.in_float:
        pairs.append(("computed in float", _named(item.in_float)))
    if item.unfused:
        pairs.append(("unfused Q/DQ", _named(item.unfused)))
    if item.slower:
        layers = [
            f"{layer.label} ({duration(was)} → {duration(layer.ns)})" for layer, was in item.slower[:LAYERS_NAMED]
        ]
        pairs.append(("slower than float32", escape(", ".join(layers))))
    return pairs


def _named(layers: Sequence[LayerTime]) -> str:
    more = f" and {len(layers) - LAYERS_NAMED} more" if len(layers) > LAYERS_NAMED else ""
    return escape(", ".join(f"{item.label} ({duration(item.ns)})" for item in layers[:LAYERS_NAMED]) + more)
