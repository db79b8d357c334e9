"""``deploy train``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli import _options as shared
from deploy.cli._arguments import DATA, MODEL, TARGET, WEIGHTS, check_inputs
from deploy.cli._common import EXIT, Settings, emit, json_option, name_option
from deploy.cli._options import option, pack_model


@click.command(
    epilog="""\b
Examples:
  deploy train lenet5 --data digits
  deploy train resnet18_digits --data digits --epochs 10 --seed 1
  deploy train inception_small --data cifar10 --data-root ~/data
  deploy train resnet18 --data photos/ --weights default --lr 0.005   fine-tune published weights
  deploy train fcos_small --data shapes                               a detector
  deploy train lenet5 --data digits --resume                          continue an interrupted training
  deploy train lenet5 --data digits --qat --target openvino           train the weights of the INT8 file
"""
)
@click.argument("model", type=MODEL)
@option(
    "--data",
    type=DATA,
    required=True,
    metavar="NAME|DIR|FILE",
    help="Training images: digits, mnist, fashion-mnist, cifar10 or shapes; a folder with one subfolder per class, "
    "optionally within train/ and val/; boxes (COCO, YOLO, VOC) or masks; or an .npz file with 'images' and 'labels'.",
)
@option(
    "--epochs",
    type=shared.count,
    help="Number of passes over the training images. [default: 20; on boxes: 30; on masks: 16; with --qat: 5]",
)
@option("--batch-size", type=shared.count, help="Images per batch. [default: 64; on boxes: 16; on masks: 8]")
@option("--lr", type=float, help="Maximum learning rate. [default: 0.05 for sgd, 0.003 for adamw, 0.0003 with --qat]")
@option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    help="SGD with Nesterov momentum 0.9, or AdamW. [default: sgd; on boxes or masks: adamw]",
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
@option(
    "--qat",
    is_flag=True,
    help="Quantize the trained model, then train the weights of the INT8 file to answer as the float model does.",
)
@option("--target", type=TARGET, metavar="NAME", help="With --qat: what the INT8 file is for. [default: onnxruntime]")
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
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, qat: bool, **options: Any) -> int:
    """Train or fine-tune MODEL on images with labels, boxes or masks.

    The head gets one output per class of the data. Images are resized to the input of MODEL and converted to gray or
    RGB. The same command gives bitwise the same weights, interrupted or not.

    The checkpoints of the best and the last epoch and the training curve are written to artifacts/<model>/. For a zoo
    model, later commands use the best checkpoint by default; for other models, pass it with --weights FILE.
    """
    if qat:
        return _fine_tune(ctx, as_json, options)
    shared.refuse_unused(ctx, ["target"], used=False, needs="--qat")
    from deploy.terminal.train import show_training
    from deploy.training.train import train_model

    del options["target"]
    settings: Settings = ctx.obj
    pack_model(options)
    with settings.progress() as progress:
        report = train_model(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_training(report))
    return 0


def _fine_tune(ctx: click.Context, as_json: bool, options: dict[str, Any]) -> int:
    """Quantize a model and train the weights of the INT8 file."""
    shared.refuse_together(ctx, ["optimizer", "schedule", "augment", "resume", "data_root"], "--qat")
    from deploy.quantization.fine_tuning import FineTuning
    from deploy.quantization.quantize import quantize
    from deploy.terminal.quantize import show_quantized

    settings: Settings = ctx.obj
    names = ("epochs", "lr", "batch_size", "seed")
    chosen = {name: options[name] for name in names if options[name] is not None}
    if any(shared.given(ctx, name) for name in shared.REQUEST_OPTIONS if name in options and name != "seed"):
        options["weights"] = options["weights"] if shared.given(ctx, "weights") else "auto"
        pack_model(options)
    with settings.progress() as progress:
        report = quantize(
            options["model"],
            name=options.get("name"),
            calib=options["data"],
            target=options["target"] or "onnxruntime",
            skip_bad=options["skip_bad"],
            fine_tuning=FineTuning(**chosen),
            artifacts=settings.artifacts,
            progress=progress,
        )
    emit(report.to_dict(), as_json, lambda: show_quantized(report, details=False))
    return EXIT[report.verdict]
