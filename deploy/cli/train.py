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
  deploy train lenet5 --data digits --resume                          continue an interrupted training
"""
)
@click.argument("model")
@click.option(
    "--data",
    required=True,
    metavar="NAME|DIR|FILE",
    help="Training images: digits, mnist, fashion-mnist or cifar10; a folder with one subfolder per class, optionally "
    "within train/ and val/; or an .npz file with 'images' and 'labels'.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of passes over the training images.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images per step.")
@click.option("--lr", type=float, help="Maximum learning rate. [default: 0.05 for sgd, 0.003 for adamw]")
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    default="sgd",
    show_default=True,
    help="SGD with Nesterov momentum 0.9, or AdamW.",
)
@click.option(
    "--schedule",
    type=click.Choice(["one-cycle", "cosine"]),
    default="one-cycle",
    show_default=True,
    help="Learning-rate schedule; one-cycle begins with a linear warm-up.",
)
@click.option(
    "--augment",
    type=click.Choice(["light", "none"]),
    default="light",
    show_default=True,
    help="Augmentation; light: small random rotations, changes of size and shifts.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of weights, shuffling, augmentation and dropout.")
@click.option("--resume", is_flag=True, help="Continue the same command after an interruption.")
@click.option(
    "--weights",
    default="none",
    show_default=True,
    metavar="none|default|FILE",
    help="Initial weights: untrained, published, or a checkpoint.",
)
@click.option("--data-root", type=click.Path(file_okay=False, path_type=Path), help="Folder of downloaded data sets.")
@click.option("--skip-bad", is_flag=True, help="Skip unreadable images instead of failing.")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME:DIMS", help="Input of MODEL, such as image:batch,3,64,64."
)
@click.option("-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of the architecture; repeatable.")
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

    The head gets one output per class of the data. Images are resized to the input of MODEL and converted to gray or
    RGB. The same command gives bitwise the same weights, interrupted or not.

    The checkpoints of the best and the last epoch and the training curve are written to artifacts/<model>/. For a zoo
    model, later commands use the best checkpoint by default; for other models, pass it with --weights FILE.
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

    accuracy, data = report.accuracy, report.data["training"]
    low, high = accuracy["top1_interval"]
    pairs = [
        ("best", f"[bold]{escape(str(report.best.path))}[/]"),
        ("last", escape(str(report.last.path))),
        *(("curve", escape(str(path))) for path in report.curve),
        ("model", escape(report.best.manifest.model)),
        ("trained on", escape(f"{data['images']} images of {data['name']}, {len(report.history)} epochs")),
        (
            "accuracy",
            f"[bold]{accuracy['top1']:.2%}[/] on {accuracy['images']} held-out images (95 %: {low:.2%} to {high:.2%}), "
            f"epoch {report.best_epoch}, selected on these images",
        ),
        ("time", f"{report.seconds:.1f} s"),
    ]
    console().print(rows(pairs))
