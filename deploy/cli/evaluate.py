"""``deploy evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli._common import EXIT, Settings, emit, json_option

if TYPE_CHECKING:
    from deploy.evaluation.evaluate import AccuracyRow, EvaluationReport


@click.command(
    epilog="""\b
Examples:
  deploy evaluate --data digits                        the model of the newest export
  deploy evaluate lenet5 resnet18_digits --data digits
  deploy evaluate resnet18 --data imagenet/val --max-drop 0.5
  deploy evaluate artifacts/lenet5/lenet5.fp16.onnx --data digits --json
"""
)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--data",
    required=True,
    metavar="NAME|DIR|FILE",
    help="digits, mnist, fashion-mnist, cifar10; a folder of class folders; or .npz with 'images' and 'labels'.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Points of top-1 that an artifact may detectably lose against PyTorch.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--data-root", type=click.Path(file_okay=False, path_type=Path), help="Where downloaded data sets are.")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable images out instead of refusing.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    models: tuple[str, ...],
    data: str,
    max_drop: float,
    batch_size: int,
    data_root: Path | None,
    skip_bad: bool,
    as_json: bool,
) -> int:
    """Judge every artifact of each MODEL on labeled images, side by side with PyTorch.

    MODEL is a name as in export, or a file of the artifacts directory; without one, the model of the newest export.
    Of data that a model was trained on, only the held-out images are judged. Intervals are Wilson's, 95 %; two
    runners are compared image by image with McNemar's exact test.

    Exit code 3: an artifact is worse than PyTorch by more than --max-drop, or gives values that are not finite; 4: one
    could not be compared, because it was made from other weights.
    """
    from deploy.evaluation.evaluate import evaluate_models

    with settings.progress() as progress:
        report = evaluate_models(
            models,
            data=data,
            artifacts=settings.artifacts,
            max_drop=max_drop,
            batch_size=batch_size,
            data_root=data_root,
            skip_bad=skip_bad,
            progress=progress,
        )
    emit(report.to_dict(), as_json, lambda: _show(report))
    return EXIT[report.verdict]


def _show(report: EvaluationReport) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from deploy.terminal.console import STYLE, console, escape, rows

    data = report.data
    title = f"{data['images']} images of {data['name']} ({data['split']})"
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("artifact", overflow="fold")
    for name in ("top-1", "95 %", "top-5", "agrees", "confidence"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(*map(escape, _cells(row)))
    out = console(piped=120)
    out.print(table)
    judged = [row for row in report.rows if row.verdict != "reference"]
    out.print(rows((_name(row), f"[{STYLE[row.verdict]}]{escape(_verdict(row))}[/]") for row in judged))


def _name(row: AccuracyRow) -> str:
    return row.file.name if row.file else f"{row.model} (PyTorch)"


def _cells(row: AccuracyRow) -> list[str]:
    accuracy, compared = row.accuracy, row.comparison
    low, high = accuracy.top1_interval
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
        return row.note or row.verdict
    low, high = (100 * end for end in row.comparison.difference_interval)
    predicted = "; predicted by ONNX Runtime without fusions" if row.runtime == "simulated" else ""
    return f"{row.comparison.verdict} ({low:+.2f} to {high:+.2f} points, p = {row.comparison.p_value:.2g}){predicted}"
