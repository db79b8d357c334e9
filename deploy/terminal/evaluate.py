"""Terminal output of ``deploy evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.core.artifact import UNPROVEN
from deploy.terminal.console import STYLE, console, escape, rows, table

if TYPE_CHECKING:
    from deploy.evaluation.rows import AccuracyRow, EvaluationReport

COLUMNS = {
    "top-1": ("top-1", "95 % CI", "top-5", "agreement", "confidence"),
    "mAP": ("mAP", "95 % CI", "mAP50", "lowest class"),
    "mask mAP": ("mask mAP", "95 % CI", "mAP of boxes", "lowest class"),
    "mIoU": ("mIoU", "95 % CI", "pixel accuracy", "lowest class"),
}
"""Columns of the table of each metric."""


def show_evaluation(report: EvaluationReport) -> None:
    """Print the accuracy of every artifact, then the verdicts."""
    data = report.data
    title = f"{data['images']} images of {data['name']} ({data['split']})"
    out = console(piped=120)
    for metric in dict.fromkeys(_metric(row) for row in report.rows):
        result = table("artifact", *COLUMNS[metric], numbers=COLUMNS[metric], title=title)
        for row in report.rows:
            if _metric(row) == metric:
                result.add_row(*map(escape, _cells(row)))
        out.print(result)
    judged = [row for row in report.rows if row.verdict != "reference"]
    out.print(rows((_name(row), f"[{STYLE[row.verdict]}]{escape(_verdict(row))}[/]") for row in judged))


def _metric(row: AccuracyRow) -> str:
    return str(getattr(row.accuracy, "metric", "top-1"))


def _name(row: AccuracyRow) -> str:
    return row.file.name if row.file else f"{row.model} (PyTorch)"


def _cells(row: AccuracyRow) -> list[str]:
    from deploy.evaluation.accuracy import Accuracy, AccuracyComparison

    accuracy, comparison = row.accuracy, row.comparison
    if not isinstance(accuracy, Accuracy):
        low, high = accuracy.interval
        worst = min(accuracy.per_class.items(), key=lambda item: item[1], default=("", 0.0))
        return [
            _name(row),
            f"{accuracy.value:.2%}",
            f"{low:.1%} to {high:.1%}",
            f"{accuracy.second:.2%}",
            f"{worst[0]} {worst[1]:.1%}",
        ]
    low, high = accuracy.interval
    compared = comparison if isinstance(comparison, AccuracyComparison) else None
    return [
        _name(row),
        f"{accuracy.top1:.2%}",
        f"{low:.1%} to {high:.1%}",
        "" if accuracy.top5 is None else f"{accuracy.top5:.2%}",
        "" if compared is None else f"{compared.agreement:.2%}",
        f"{accuracy.confidence:.4f}" if compared is None else f"{compared.confidence_shift:+.4f}",
    ]


def _verdict(row: AccuracyRow) -> str:
    if row.comparison is None or row.note:
        return f"{UNPROVEN}: {row.note}" if row.verdict == UNPROVEN else row.note or row.verdict
    low, high = (100 * end for end in row.comparison.difference_interval)
    chance = getattr(row.comparison, "p_value", None)
    known = "" if chance is None else f", p = {chance:.2g}"
    simulated = "; simulated by ONNX Runtime without fusion" if row.runtime == "simulated" else ""
    return f"{row.comparison.verdict} ({low:+.2f} to {high:+.2f} points{known}){simulated}"
