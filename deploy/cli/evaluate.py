"""``deploy evaluate``."""

from __future__ import annotations

from typing import Any

import click

from deploy.cli._arguments import DATA, MODEL
from deploy.cli._common import EXIT, Settings, emit, json_option
from deploy.cli._options import (
    batch_size_option,
    data_root_option,
    labels_option,
    option,
    pack_labels,
    pack_postprocessing,
    postprocess_options,
    preprocess_option,
    skip_bad_option,
)


@click.command(
    epilog="""\b
Examples:
  deploy evaluate --data digits                        the model of the newest export
  deploy evaluate lenet5 resnet18_digits --data digits
  deploy evaluate resnet18 --data imagenet/val --max-drop 0.5
  deploy evaluate fcos_small --data shapes             mAP of a detector
  deploy evaluate artifacts/lenet5/lenet5.fp16.onnx --data digits --json
"""
)
@click.argument("models", nargs=-1, type=MODEL, metavar="[MODEL]...")
@option(
    "--data",
    type=DATA,
    required=True,
    metavar="NAME|DIR|FILE",
    help="digits, mnist, fashion-mnist, cifar10, shapes; a folder with one folder per class; .npz with 'images' and "
    "'labels'; boxes: a COCO file, or a folder with images/ and labels/ (YOLO) or Annotations/ (VOC); or a folder with "
    "images/ and masks/.",
)
@option(
    "--max-drop",
    type=click.FloatRange(min=0),
    default=1.0,
    help="Maximum detectable loss of top-1 accuracy, mAP or mIoU against PyTorch, in percentage points.",
)
@batch_size_option
@data_root_option
@skip_bad_option
@preprocess_option(
    "Change how images are prepared, for all files and PyTorch alike; repeatable: crop=224, mean=…, std=…"
)
@labels_option
@option(
    "--task",
    type=click.Choice(["classification", "detection", "instance-segmentation", "semantic-segmentation"]),
    help="What the outputs are. [default: as recorded, or as the outputs show]",
)
@postprocess_options
@json_option
@click.pass_obj
def command(settings: Settings, /, as_json: bool, **options: Any) -> int:
    """Evaluate the accuracy, mAP or mIoU of every artifact of each MODEL, compared with PyTorch.

    MODEL is a name as in export, or a file; default: the model of the newest export. If a
    model was trained on part of the data, only the held-out images are used. Confidence intervals of the accuracy are
    Wilson's, 95 %, and artifacts are compared with PyTorch by McNemar's exact test. Those of mAP and mIoU are bootstrap
    intervals over the images, and the difference from PyTorch is computed on the same resampled images.

    Exit code 3: an artifact is detectably worse than PyTorch by more than --max-drop, or has values that are not
    finite; 4: an artifact could not be compared, because it was exported from other weights or its manifest prepares
    images differently. A file whose model is not known is called unproven.
    """
    from deploy.evaluation.evaluate import evaluate_models
    from deploy.terminal.evaluate import show_evaluation

    pack_labels(options)
    pack_postprocessing(options)
    with settings.progress() as progress:
        report = evaluate_models(artifacts=settings.artifacts, progress=progress, **options)
    emit(report.to_dict(), as_json, lambda: show_evaluation(report))
    return EXIT[report.verdict]
