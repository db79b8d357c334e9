"""Terminal output of ``deploy check``, and the parity lines that ``deploy export`` prints too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from deploy.core.backend import title_of
from deploy.core.model import HALVES
from deploy.terminal.console import STYLE, console, escape, rows, weights_line

if TYPE_CHECKING:
    from deploy.exporting.check import CheckReport
    from deploy.parity.locate import Location
    from deploy.parity.verdict import ParityReport


def parity_rows(report: ParityReport, backend: str) -> list[tuple[str, str]]:
    """Return a parity report as pairs of names and values for `deploy.terminal.console.rows`."""
    if report.precision in HALVES:
        backend = "the file"
    run = "; ".join(f"{name} {', '.join(map(str, sizes))}" for name, sizes in report.dynamic.items())
    over = f"{report.probes} probes" + (f", run at {escape(run)}" if run else ", fixed sizes")
    reached = f" · coverage {report.coverage.percent:g} %" if report.coverage else ""
    pairs = [("parity", f"[{STYLE[report.verdict]}]{report.verdict}[/]{reached}  ({over})")]
    pairs.extend(("", escape(reason)) for reason in report.reasons[:5])
    if report.ranges:
        pairs.append(("sizes", escape("; ".join(f"{item.dim}: {item}" for item in report.ranges))))
    worst = report.worst()
    if worst is not None and worst.verdict != "inconclusive" and worst.samples:
        margin = "" if not math.isfinite(worst.margin) else f"; margin {worst.margin:.1f}×"
        text = (
            f"{escape(backend)} {worst.candidate:.1e}, PyTorch's own {report.precision} {worst.torch:.1e} "
            f"(limit {worst.envelope:.0f}×{margin}; {escape(worst.output)}, {worst.group} probes)"
        )
        pairs.append(("noise / signal", text))
    blind = [item for item in report.outputs if item.group != "unit" and item.verdict == "inconclusive"]
    pairs.extend(("", f"inconclusive: {escape(item.output)} at {item.group} probes ({item.reason})") for item in blind)
    if report.coverage is not None and (gaps := report.coverage.gaps()):
        pairs.extend(("not reached" if index == 0 else "", escape(gap)) for index, gap in enumerate(gaps[:5]))
    if report.weights is not None:
        pairs.append(("weights", _accounts(report.weights)))
    pairs.extend(("note", escape(note)) for note in report.notes)
    return pairs


def _accounts(weights: Any) -> str:
    words = {
        "identical": "identical",
        "folded": "folded into convolutions and recomputed",
        "computed": "computed from weights alone",
        "unused": "not read by the model",
        "listed": "not found unchanged (folded into other constants, or altered)",
    }
    counts = weights["counts"]
    text = ", ".join(f"{counts[key]} {words[key]}" for key in words if counts[key])
    named = ", ".join(weights["listed"][:3]) + (" …" if len(weights["listed"]) > 3 else "")
    return text + (f": {escape(named)}" if named else "")


def show_check(report: CheckReport) -> None:
    """Print the result of a parity check."""
    backend = title_of(report.backend)
    pairs = [
        ("file", f"[bold]{escape(str(report.path))}[/]"),
        ("model", escape(report.model.name)),
        ("trained", weights_line(report.model.weights)),
        ("backend", escape(backend) + (f" on {report.device}" if report.device != "cpu" else "")),
        *parity_rows(report.parity, backend),
    ]
    if report.location is not None:
        pairs.extend(location_rows(report.location, report.parity.verdict, backend))
    console().print(rows(pairs))


def location_rows(found: Location, verdict: str, backend: str) -> list[tuple[str, str]]:
    """Return the first difference as pairs of names and values for `deploy.terminal.console.rows`."""
    counted = f"{found.agreed} of {found.compared} tensors match a tensor of the model"
    if not found.tensor:
        where = f"; the difference comes from the graph optimizations of {escape(backend)}" if verdict == "fail" else ""
        return [("located", f"every tensor agrees when nodes run one at a time{where} ({counted})")]
    noise = (
        "no tensor of the model has this size"
        if found.noise is None or found.own is None
        else (f"noise / signal {found.noise:.1e}, PyTorch's own {found.own:.1e}")
    )
    return [
        ("first difference", f"[bold]{escape(found.tensor)}[/] ({noise})"),
        ("node", escape(f"{found.node} ({found.operator})")),
        ("module", escape(found.module or "not recorded")),
        ("last agreement", escape(found.after or "the input")),
        ("", counted),
    ]
