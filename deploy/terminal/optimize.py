"""Terminal output of ``deploy optimize``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.bench.elimination import ERROR
from deploy.core.start import since_start
from deploy.support.formatting import CANNOT_TELL, SAME, duration, size, spread, times_faster
from deploy.terminal.console import STYLE, console, escape, rows, table

if TYPE_CHECKING:
    from deploy.bench.statistics import Interval
    from deploy.optimizing.optimize import CandidateResult, OptimizeReport

SHOWN = 12
"""Candidates in the table; ``--json`` has all."""


def show_optimized(found: OptimizeReport) -> None:
    """Print the candidates, and one sentence that says what to deploy."""
    out = console(100)
    heads = ("candidate", "state", "latency", "95 % CI", "winner is faster by", "size")
    result = table(*heads, numbers=heads[2:])
    for item in found.candidates[:SHOWN]:
        result.add_row(*map(escape, _cells(item)))
    out.print(result)
    hidden = len(found.candidates) - SHOWN
    if hidden > 0:
        out.print(f"[dim]and {hidden} more, all slower or failed (--json)[/]")
    pairs = [("choice", _sentence(found))]
    if found.reason:
        pairs.append(("verdict", f"[{STYLE[found.verdict]}]{found.verdict}[/]: {escape(found.reason)}"))
    if found.runner_up is not None and found.runner_up.ratio is not None:
        gap = _factor(found.runner_up.ratio, "no difference is shown", "as fast", "takes {} the time")
        pairs.append(("runner-up", f"{escape(found.runner_up.name)} ({gap})"))
    pairs += [("left out", escape(f"{item.name}: {item.reason}")) for item in found.left_out]
    pairs += [("interference", escape(text)) for text in found.flags.values()]
    pairs.append(("record", escape(str(found.deployment))))
    pairs.append(("next", escape(_next(found))))
    pairs.append(("took", f"{since_start():.0f} s, {found.rounds} rounds"))
    out.print(rows(pairs))
    out.print(f"[dim]Factors have {100 * (1 - ERROR):g} % intervals that are valid for all candidates together.[/]")


def _cells(item: CandidateResult) -> list[str]:
    if item.median_ns is None or item.ratio is None:
        return [item.name, f"{item.state}: {item.reason}", "", "", "", size(item.bytes)]
    median, ratio = item.median_ns, item.ratio
    factor = "" if item.state == "winner" else times_faster(ratio.value, ratio.low, ratio.high)
    if factor == CANNOT_TELL and item.state == "slower":
        factor = f"> {ratio.low:.2f}×"
    spread_of = spread(median.value, median.low, median.high)
    return [item.name, item.state, duration(median.value), spread_of, factor, size(item.bytes)]


def _sentence(found: OptimizeReport) -> str:
    winner = found.winner
    name = f"[bold green]{escape(winner.name)}[/]"
    what = f"{name}, {escape(winner.file)}" if winner.file else name
    if found.speedup is None:
        return what
    gain = _factor(found.speedup, "not shown to be faster than PyTorch", "as fast as PyTorch", "{} as fast as PyTorch")
    return f"{what}: {gain}; {escape(_kept(winner))}"


def _factor(ratio: Interval, wide: str, same: str, other: str) -> str:
    """Return a ratio in words: its interval is too wide to tell, it is about 1, or it has a value."""
    text = times_faster(ratio.value, ratio.low, ratio.high)
    if text == CANNOT_TELL:
        return wide
    return same if text.startswith(SAME) else other.format(text)


def _kept(winner: CandidateResult) -> str:
    """Return what the choice costs in accuracy, in words."""
    verdict = winner.evidence.get("verdict")
    if winner.precision != "int8":
        return {"pass": "parity pass", "reference": "PyTorch itself"}.get(str(verdict), str(verdict))
    outputs = winner.evidence.get("outputs", ())
    ratios = [item["sqnr_db"] for item in outputs if item.get("sqnr_db") is not None]
    agreements = [item["agreement"] for item in outputs if item.get("agreement") is not None]
    parts = [f"SQNR {min(ratios):.1f} dB"] if ratios else []
    parts += [f"{min(agreements):.1%} equal answers"] if agreements else []
    return ", ".join(parts)


def _next(found: OptimizeReport) -> str:
    winner = found.winner
    if winner.file is None:
        return f"deploy bench {found.deployment}"
    return f"deploy serve {found.deployment}, or deploy package {found.deployment} --for standalone"
