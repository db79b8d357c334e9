"""Output of ``deploy train``."""

from __future__ import annotations

from deploy.terminal.console import console, escape, rows
from deploy.training.train import TrainReport


def show_training(report: TrainReport) -> None:
    """Print the checkpoints of a training and its accuracy."""
    accuracy, data = report.accuracy, report.data["training"]
    name, value = accuracy.get("metric", "accuracy"), accuracy.get("value", accuracy.get("top1"))
    low, high = accuracy.get("interval", accuracy.get("top1_interval"))
    pairs = [
        ("best", f"[bold]{escape(str(report.best.path))}[/]"),
        ("last", escape(str(report.last.path))),
        *(("curve", escape(str(path))) for path in report.curve),
        ("model", escape(report.best.manifest.model)),
        ("trained on", escape(f"{data['images']} images of {data['name']}, {len(report.history)} epochs")),
        (
            name,
            f"[bold]{value:.2%}[/] on {accuracy['images']} held-out images (95 %: {low:.2%} to {high:.2%}), "
            f"epoch {report.best_epoch}, selected on these images",
        ),
        ("time", f"{report.seconds:.1f} s"),
    ]
    console().print(rows(pairs))
