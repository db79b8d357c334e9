"""Terminal output of ``deploy compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.bench.sequential import NOMINAL
from deploy.core.artifact import UNPROVEN
from deploy.core.start import since_start
from deploy.support.formatting import duration
from deploy.terminal.console import STYLE, console, escape, rows

if TYPE_CHECKING:
    from deploy.bench.compare import ComparedSide, SpeedComparison


def show_comparison(found: SpeedComparison) -> None:
    """Print the ratio of the two latencies and the verdict on the second one."""
    ratio, second = found.ratio, escape(found.second.name)
    verdict = {
        "faster": f"[bold green]{second} is faster[/]",
        "slower": f"[bold red]{second} is slower[/]",
        "no difference": f"[bold]no difference[/] larger than {found.margin:.1%}",
        "cannot tell": "[bold yellow]inconclusive[/]: raise --time-limit or use a quieter machine",
    }[found.verdict]
    pairs = [
        ("first", _side(found.first)),
        ("second", _side(found.second)),
        (
            "ratio",
            f"{ratio.value:.4f} ({100 * (1 - NOMINAL):g} % CI {ratio.low:.4f} to {ratio.high:.4f}), second / first",
        ),
        ("verdict", verdict),
    ]
    if found.guard is not None and found.allowed is not None:
        pairs.append(("limit", f"[{STYLE[found.guard]}]{found.guard}[/]: at most {found.allowed:.1%} slower"))
    pairs += [("interference", escape(text)) for text in found.flags.values()]
    pairs.append(("took", f"{since_start():.0f} s, {len(found.first.medians)} pairs of processes"))
    console().print(rows(pairs))


def _side(side: ComparedSide) -> str:
    times = sorted(side.medians)
    cell = side.plan.cell
    unproven = f", {UNPROVEN}" if (side.plan.evidence or {}).get("verdict") == UNPROVEN else ""
    configuration = f"{cell.backend}, {cell.precision}, batch {cell.batch}, {cell.threads} threads{unproven}"
    return f"{escape(side.name)}: {duration(times[len(times) // 2])} ({configuration})"
