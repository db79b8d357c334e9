"""``deploy evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.cli._common import EXIT, Settings, emit, json_option


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
    help="digits, mnist, fashion-mnist, cifar10; a folder with one folder per class; or .npz with 'images' and "
    "'labels'.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Maximum detectable loss of top-1 accuracy against PyTorch, in percentage points.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images per batch.")
@click.option(
    "--data-root", type=click.Path(file_okay=False, path_type=Path), help="Directory of downloaded data sets."
)
@click.option("--skip-bad", is_flag=True, help="Skip unreadable images instead of stopping.")
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
    """Evaluate the accuracy of every artifact of each MODEL on labeled images, compared with PyTorch.

    MODEL is a name as in export, or a file in the artifacts directory; default: the model of the newest export. If a
    model was trained on part of the data, only the held-out images are used. Confidence intervals are Wilson's, 95 %.
    Artifacts are compared with PyTorch image by image, with McNemar's exact test.

    Exit code 3: an artifact is detectably worse than PyTorch by more than --max-drop, or has values that are not
    finite; 4: an artifact could not be compared, because it was exported from other weights.
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

    def show() -> None:
        from deploy.terminal.evaluate import show_evaluation

        show_evaluation(report)

    emit(report.to_dict(), as_json, show)
    return EXIT[report.verdict]
