"""The training curve as a table and, if matplotlib is installed, as a plot."""

from __future__ import annotations

import csv
import importlib.util
import io
import warnings
from collections.abc import Mapping, Sequence

History = Sequence[Mapping[str, float]]
"""One row per epoch: ``epoch``, ``learning_rate``, and the loss and the score as ``train_…`` and ``test_…``.

The score is ``top1``, ``map`` or ``miou``; that of the training images is known of classifiers only.
"""


SCORES = {"top1": "top-1 accuracy", "map": "mAP", "miou": "mIoU"}
"""Names of the scores by their columns."""


def score_of(history: History) -> str:
    """Return the score of a training curve, a key of `SCORES`."""
    return next(name for name in SCORES if f"test_{name}" in history[0])


def can_plot() -> bool:
    """Return whether `plot` works: matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def table(history: History) -> bytes:
    """Return CSV with one line per epoch."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return stream.getvalue().encode()


def plot(history: History, title: str) -> bytes:
    """Return a PNG with the loss on the left and the score on the right, over epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.15, top=0.88, wspace=0.22)
    figure.suptitle(title, parse_math=False)
    score = score_of(history)
    for axes, metric, factor in ((left, "loss", 1), (right, score, 100)):
        for split, label, style in (("train", "training", "--"), ("test", "held out", "-")):
            if f"{split}_{metric}" not in history[0]:
                continue
            values = [row[f"{split}_{metric}"] * factor for row in history]
            axes.plot(epochs, values, style, label=label, marker="." if len(history) < 3 else None)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylabel("cross-entropy" if score == "top1" else "loss")
    left.set_yscale("log")
    right.set_ylabel(f"{SCORES[score]} in %")
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters of a folder name that the font lacks
        figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
