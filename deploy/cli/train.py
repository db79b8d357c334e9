"""``deploy train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.cli._common import Settings, emit, json_option, request

if TYPE_CHECKING:
    from deploy.training.train import TrainReport


@click.command(
    epilog="""\b
Examples:
  deploy train lenet5 --data digits
  deploy train resnet18_digits --data digits --epochs 10 --seed 1
  deploy train inception_small --data cifar10 --data-root ~/data
  deploy train resnet18 --data photos/ --weights default --lr 0.005   fine-tune published weights
  deploy train lenet5 --data digits --resume                          go on after an interruption
"""
)
@click.argument("model")
@click.option(
    "--data",
    required=True,
    metavar="NAME|DIR|FILE",
    help="digits, mnist, fashion-mnist, cifar10; a folder of class folders, perhaps within train/ and val/; or .npz "
    "with 'images' and 'labels'.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--lr", type=float, help="Largest learning rate. [default: 0.05 for sgd, 0.003 for adamw]")
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd", show_default=True)
@click.option("--schedule", type=click.Choice(["one-cycle", "cosine"]), default="one-cycle", show_default=True)
@click.option(
    "--augment",
    type=click.Choice(["light", "none"]),
    default="light",
    show_default=True,
    help="light: small random rotations, changes of size and shifts.",
)
@click.option("--seed", default=0, show_default=True, help="Of weights, shuffling, augmentation and dropout.")
@click.option("--resume", is_flag=True, help="Go on where the same command was interrupted.")
@click.option(
    "--weights",
    default="none",
    show_default=True,
    metavar="none|default|FILE",
    help="What to begin with: fresh ones, published ones, or a checkpoint.",
)
@click.option("--data-root", type=click.Path(file_okay=False, path_type=Path), help="Where downloaded data sets are.")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable images out instead of refusing.")
@click.option("--input", "inputs", multiple=True, metavar="NAME:DIMS", help="Input of MODEL: image:batch,3,64,64")
@click.option("-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of the architecture, repeated.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    model: str,
    data: str,
    epochs: int,
    batch_size: int,
    lr: float | None,
    optimizer: str,
    schedule: str,
    augment: str,
    seed: int,
    resume: bool,
    weights: str,
    data_root: Path | None,
    skip_bad: bool,
    inputs: tuple[str, ...],
    options: tuple[str, ...],
    as_json: bool,
) -> int:
    """Train or fine-tune MODEL on labeled images.

    The head gets as many outputs as the data has classes; images are resized to the input, gray ones become RGB and
    the reverse as MODEL wants. The same command gives the same weights, bit for bit, interrupted or not.

    The checkpoints of the best and the last epoch and the training curve go to artifacts/<model>/; the commands that
    follow take the best one by themselves (of a zoo model; others: --weights FILE).
    """
    from deploy.training.train import train_model

    with settings.progress() as progress:
        report = train_model(
            request(model, weights, None, seed, inputs, options),
            data=data,
            artifacts=settings.artifacts,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            optimizer=optimizer,
            schedule=schedule,
            augment=augment,
            resume=resume,
            data_root=data_root,
            skip_bad=skip_bad,
            progress=progress,
        )
    emit(report.to_dict(), as_json, lambda: _show(report))
    return 0


def _show(report: TrainReport) -> None:
    from deploy.terminal.console import console, escape, rows

    accuracy, data = report.accuracy, report.data
    low, high = accuracy["top1_interval"]
    trained = f"{data['training']['images']} images of {data['training']['name']}, {len(report.history)} epochs"
    pairs = [
        ("best", f"[bold]{escape(str(report.best.path))}[/]"),
        ("last", escape(str(report.last.path))),
        *(("curve", escape(str(path))) for path in report.curve),
        ("model", escape(report.best.manifest.model)),
        ("trained on", escape(trained)),
        (
            "accuracy",
            f"[bold]{accuracy['top1']:.2%}[/] of {accuracy['images']} held-out images right (95 %: {low:.2%} to "
            f"{high:.2%}), epoch {report.best_epoch}, chosen by these images",
        ),
        ("took", f"{report.seconds:.1f} s"),
    ]
    console().print(rows(pairs))
