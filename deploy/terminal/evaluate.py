"""Terminal output of ``deploy evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.core.artifact import UNPROVEN
from deploy.terminal.console import STYLE, console, escape, rows, table

if TYPE_CHECKING:
    from deploy.evaluation.evaluate import AccuracyRow, EvaluationReport


def show_evaluation(report: EvaluationReport) -> None:
    """Print the accuracy of every artifact, then the verdicts."""
    data = report.data
    title = f"{data['images']} images of {data['name']} ({data['split']})"
    numbers = ("top-1", "95 % CI", "top-5", "agreement", "confidence")
    result = table("artifact", *numbers, numbers=numbers, title=title)
    for row in report.rows:
        result.add_row(*map(escape, _cells(row)))
    out = console(piped=120)
    out.print(result)
    judged = [row for row in report.rows if row.verdict != "reference"]
    out.print(rows((_name(row), f"[{STYLE[row.verdict]}]{escape(_verdict(row))}[/]") for row in judged))


def _name(row: AccuracyRow) -> str:
    return row.file.name if row.file else f"{row.model} (PyTorch)"


def _cells(row: AccuracyRow) -> list[str]:
    accuracy, comparison = row.accuracy, row.comparison
    low, high = accuracy.top1_interval
    return [
        _name(row),
        f"{accuracy.top1:.2%}",
        f"{low:.1%} to {high:.1%}",
        "" if accuracy.top5 is None else f"{accuracy.top5:.2%}",
        "" if comparison is None else f"{comparison.agreement:.2%}",
        f"{accuracy.confidence:.4f}" if comparison is None else f"{comparison.confidence_shift:+.4f}",
    ]


def _verdict(row: AccuracyRow) -> str:
    if row.comparison is None or row.note:
        return f"{UNPROVEN}: {row.note}" if row.verdict == UNPROVEN else row.note or row.verdict
    low, high = (100 * end for end in row.comparison.difference_interval)
    simulated = "; simulated by ONNX Runtime without fusion" if row.runtime == "simulated" else ""
    return f"{row.comparison.verdict} ({low:+.2f} to {high:+.2f} points, p = {row.comparison.p_value:.2g}){simulated}"
