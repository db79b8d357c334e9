"""The training curve as a table and, if matplotlib is installed, as a plot."""

from __future__ import annotations

import csv
import importlib.util
import io
import warnings
from collections.abc import Mapping, Sequence

History = Sequence[Mapping[str, float]]
"""One row per epoch: ``epoch``, ``learning_rate``, and loss and top-1 accuracy as ``train_…`` and ``test_…``."""


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
    """Return a PNG with the loss on the left and the top-1 accuracy on the right, over epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 3.6))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.15, top=0.88, wspace=0.22)
    figure.suptitle(title, parse_math=False)
    for axes, metric, factor in ((left, "loss", 1), (right, "top1", 100)):
        for split, label, style in (("train", "training", "--"), ("test", "held out", "-")):
            values = [row[f"{split}_{metric}"] * factor for row in history]
            axes.plot(epochs, values, style, label=label, marker="." if len(history) < 3 else None)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    left.set_ylabel("cross-entropy")
    left.set_yscale("log")
    right.set_ylabel("top-1 accuracy in %")
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters of a folder name that the font lacks
        figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
