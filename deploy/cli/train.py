"""``deploy train``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli import _options as shared
from deploy.cli._arguments import DATA, MODEL, WEIGHTS, check_inputs
from deploy.cli._common import Settings, emit, json_option, name_option
from deploy.cli._options import option, pack_model


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
@click.argument("model", type=MODEL)
@option(
    "--data",
    type=DATA,
    required=True,
    metavar="NAME|DIR|FILE",
    help="Training images: digits, mnist, fashion-mnist or cifar10; a folder with one subfolder per class, optionally "
    "within train/ and val/; or an .npz file with 'images' and 'labels'.",
)
@option("--epochs", type=shared.count, default=20, help="Number of passes over the training images.")
@shared.batch_size_option
@option("--lr", type=float, help="Maximum learning rate. [default: 0.05 for sgd, 0.003 for adamw]")
@option(
    "--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd", help="SGD with Nesterov momentum 0.9, or AdamW."
)
@option(
    "--schedule",
    type=click.Choice(["one-cycle", "cosine"]),
    default="one-cycle",
    help="Learning-rate schedule; one-cycle begins with a linear warm-up.",
)
@option(
    "--augment",
    type=click.Choice(["light", "none"]),
    default="light",
    help="Augmentation; light: small random rotations, changes of size and shifts.",
)
@option("--seed", default=0, help="Seed of weights, shuffling, augmentation and dropout.")
@option("--resume", is_flag=True, help="Continue the same command after an interruption.")
@option(
    "--weights",
    type=WEIGHTS,
    default="none",
    metavar="none|default|FILE",
    help="Initial weights: untrained, published, or a checkpoint.",
)
@shared.data_root_option
@shared.skip_bad_option
@option(
    "--input",
    "inputs",
    multiple=True,
    callback=check_inputs,
    metavar="NAME:DIMS",
    help="Input of MODEL, such as image:batch,3,64,64.",
)
@shared.arch_option
@name_option
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> int:
    """Train or fine-tune MODEL on labeled images.

    The head gets one output per class of the data. Images are resized to the input of MODEL and converted to gray or
    RGB. The same command gives bitwise the same weights, interrupted or not.

    The checkpoints of the best and the last epoch and the training curve are written to artifacts/<model>/. For a zoo
    model, later commands use the best checkpoint by default; for other models, pass it with --weights FILE.
    """
    from deploy.terminal.train import show_training
    from deploy.training.train import train_model

    pack_model(options)
    with settings.progress() as progress:
        report = train_model(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_training(report))
    return 0
