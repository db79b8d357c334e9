"""The page and the picture that `benchmarks.zoo` writes from its results."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TARGETS = {"lenet5": 0.98, "lenet": 0.98, "lenet_bn": 0.98, "resnet18_digits": 0.99, "inception_small": 0.985}
"""Held-out top-1 to reach."""

TWINS = {
    "resnet18_digits": ("ResNet-18, with shortcuts", "tab:blue"),
    "plain18_digits": ("Plain twin, without", "tab:red"),
}

HOW = (
    "Every network is trained by `deploy train zoo/NAME --data digits --seed 0`, exported by `deploy export zoo/NAME` "
    "and judged by `deploy evaluate zoo/NAME --data digits`, each as a user would type it (what else `deploy train` is "
    "given stands in `benchmarks/zoo.py`: the large networks get few epochs, small batches and, without batch "
    "normalization, AdamW, since each epoch costs minutes of one core). The data are the 1,797 "
    "digits of scikit-learn, resized from 8×8 to the network's input: 1,438 to train on, 359 held out, always the same "
    "ones. The best epoch is chosen by the held-out images, since there is no third part, so its top-1 leans to the "
    "optimiztic side; the last epoch's stands beside it and was not chosen. One image is 0.28 points. PyTorch and "
    "ONNX Runtime see the same images, and *differ* counts those to which they give another class. Parity is the proof "
    "that `deploy export` makes, on random inputs ([how](parity.md)). Processor seconds are those of `deploy train`."
)


def document(result: dict[str, Any]) -> str:
    """docs/zoo.md."""
    rows, used = result["rows"], result["versions"]
    trained = {name: row for name, row in rows.items() if row["trained"]}
    lines = [
        "# The zoo on real digits",
        "",
        "Made by `python -m benchmarks.zoo`; raw results in `benchmarks/results/zoo.json`. Times are of one thread of "
        f"{result['machine'].get('cpu', 'the processor')}, torch {used['torch']}, onnxruntime "
        f"{used.get('onnxruntime-gpu') or used.get('onnxruntime')}.",
        "",
        _summary(trained, rows, len(result["asked"])),
        "",
        HOW,
        "",
        "| network | input | parameters | top-1, PyTorch | ONNX Runtime | differ | parity | last epoch | epochs | "
        "processor s |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(name, row) for name, row in rows.items()),
        "",
        *_targets(rows),
        *_twins(result["twins"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _summary(trained: dict[str, Any], rows: dict[str, Any], asked: int) -> str:
    judged = [row for row in trained.values() if "top1" in row]
    images = sum(row["images"] for row in judged)
    differ = sum(row["disagree"] for row in judged)
    passed = sum(row.get("verdict") == "pass" for row in rows.values())
    equal = sum(row["top1"] == row["onnxruntime_top1"] for row in judged)
    return (
        f"{len(rows)} of the {asked} networks are here, {len(trained)} of them trained. The parity verdict is pass for "
        f"{passed} of {len(rows)}. For {equal} of the {len(judged)} trained ones ONNX Runtime's top-1 equals PyTorch's "
        f"to the last digit; of {images:,} answers {differ or 'none'} {'is' if differ < 2 else 'are'} another class."
    )


def _line(name: str, row: dict[str, Any]) -> str:
    shape = "×".join(map(str, row["input"]))
    count = f"{row['parameters']:,}"
    if row["parameters_here"] != row["parameters"]:
        count += f" ({row['parameters_here']:,} with ten classes)"
    verdict = row.get("verdict", "")
    if not row["trained"]:
        return f"| {name} | {shape} | {count} | not trained: {_cell(row['why'])} | | | {verdict} | | | |"
    if "top1" not in row:
        return f"| {name} | {shape} | {count} | {_cell(row['evaluation'])} | | | {verdict} | | {row['epochs']} | |"
    return (
        f"| {name} | {shape} | {count} | {row['top1']:.2%} | {row['onnxruntime_top1']:.2%} | {row['disagree']} | "
        f"{verdict} | {row['last_top1']:.2%} | {row['epochs']} | {row['train_processor_seconds']:.0f} |"
    )


def _targets(rows: dict[str, Any]) -> list[str]:
    found = {name: rows[name]["top1"] for name in TARGETS if "top1" in rows.get(name, {})}
    if not found:
        return []
    words = [
        f"{name} {'reaches' if top1 >= TARGETS[name] else '**misses**'} {TARGETS[name]:.1%} ({top1:.2%})"
        for name, top1 in found.items()
    ]
    return [f"Aims: {'; '.join(words)}.", ""]


def _twins(twins: dict[str, Any]) -> list[str]:
    if not twins:
        return []
    lines = ["## With and without shortcuts", "", "![training curves](plain_and_residual.png)", ""]
    for name, (label, _) in TWINS.items():
        runs = _runs(twins, name)
        shown = {at: ", ".join(f"{run['test_top1'][at]:.2%}" for run in runs) for at in (0, -1)}
        losses = ", ".join(f"{run['train_loss'][-1]:.4f}" for run in runs)
        lines.append(
            f"- {label}, one number a seed: held-out top-1 {shown[0]} after the first epoch and {shown[-1]} after the "
            f"last; training loss in the last {losses}."
        )
    return [
        *lines,
        "",
        "The paper (He et al. 2015, section 4.1) says of 18 layers that the two are comparably accurate and that the "
        "residual one converges faster; that plain networks get worse with depth it shows with 34. These digits cannot "
        "show the latter: both twins have all but a few of the 359 right.",
        "",
    ]


def _runs(twins: dict[str, Any], name: str) -> list[dict[str, list[float]]]:
    return [curve for key, curve in sorted(twins.items()) if key.split()[0] == name]


def picture(twins: dict[str, Any]) -> bytes:
    """PNG: loss on the left, wrong answers on the right; means over the seeds, and the range of the held-out ones."""
    figure = Figure(figsize=(10, 4))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.13, top=0.88, wspace=0.18)
    seeds = sorted({key.split()[1] for key in twins})
    figure.suptitle(f"ResNet-18 and its plain twin on digits: mean of seeds {', '.join(seeds)}; shaded: their range")
    for name, (label, color) in TWINS.items():
        for axes, what in ((left, "loss"), (right, "wrong")):
            for split, style in (("train", "--"), ("test", "-")):
                values = np.array([_series(run, split, what) for run in _runs(twins, name)])
                if not len(values):
                    continue
                epochs = np.arange(1, values.shape[1] + 1)
                told = f"{label}: {'training' if split == 'train' else 'held out'}"
                axes.plot(epochs, values.mean(0), style, color=color, linewidth=1.6, label=told)
                if split == "test":
                    axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    for axes, title in ((left, "cross-entropy"), (right, "wrong answers in %")):
        axes.set_xlabel("epoch")
        axes.set_ylabel(title)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    return stream.getvalue()


def _series(run: dict[str, list[float]], split: str, what: str) -> list[float]:
    if what == "loss":
        return run[f"{split}_loss"]
    return [max(100 * (1 - top1), 0.01) for top1 in run[f"{split}_top1"]]  # a logarithm has no place for none wrong


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
