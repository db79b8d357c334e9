"""The report's plots, as figures for Plotly: traces and axes in plain values, and a text of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from deploy.report.plot_parts import (
    MILLI,
    Figure,
    Plain,
    Plot,
    by_setting,
    color_of,
    ends,
    error_x,
    fastest,
    in_words,
    marker,
    median,
    rounded,
    series,
    setting_of,
)
from deploy.report.plots_why import curves, roofline, sensitivity


def plots(document: Plain) -> list[Plot]:
    """The plots for which there is something to show."""
    rows = [row for row in document["rows"] if row["latency"]]
    single = [row for row in rows if row["scenario"] == "latency"]
    found = [
        _latency(single),
        _front(single),
        _distributions(single),
        _batches(single),
        roofline(single, document["limits"]),
        sensitivity(document["sensitivity"]),
        curves(document["curves"]),
    ]
    return [item for item in found if item is not None]


def _latency(rows: Sequence[Plain]) -> Plot | None:
    if not rows:
        return None
    figures = {}
    for setting, group in by_setting(rows).items():
        order = [row["slug"] for row in reversed(fastest(group))]
        lines = series(group)
        data = [
            {
                "type": "scatter",
                "mode": "markers",
                "name": " ".join(name),
                "x": [rounded(median(row) * MILLI) for row in members],
                "y": [order.index(row["slug"]) + _apart(index, len(lines)) for row in members],
                "text": [row["slug"] for row in members],
                "error_x": error_x(members),
                "marker": marker(name),
            }
            for index, (name, members) in enumerate(lines)
        ]
        figures[setting] = {
            "data": data,
            "layout": {
                "height": 150 + max(30, 9 * len(lines)) * len(order),
                "xaxis": {"type": "log", "title": {"text": "median latency in ms, with its 95 % interval"}},
                "yaxis": {
                    "tickvals": list(range(len(order))),
                    "ticktext": order,
                    "range": [-0.6, len(order) - 0.4],
                    "automargin": True,
                },
            },
        }
    first = next(iter(by_setting(rows).values()))
    text = "The fastest of each architecture: " + "; ".join(in_words(row) for row in fastest(first)) + "."
    return Plot(name="latency", title="Latency by architecture and backend", text=text, figures=figures)


def _apart(index: int, count: int) -> float:
    """Where a series stands within its architecture, so that intervals do not lie on each other."""
    return rounded(0.7 * (0.5 - (index + 0.5) / count))


def _front(rows: Sequence[Plain]) -> Plot | None:
    figures, texts = {}, []
    for setting, group in by_setting([row for row in rows if row["accuracy"]]).items():
        for data_name in dict.fromkeys(row["accuracy"]["data"] for row in group):
            judged = [row for row in group if row["accuracy"]["data"] == data_name]
            front = [row for row in judged if not any(beats(other, row) for other in judged)]
            figures[f"{data_name}, {setting}"] = _front_figure(judged, front)
            told = ", ".join(f"{in_words(row)} {row['accuracy']['top1']:.1%}" for row in sorted(front, key=median))
            texts.append(f"{data_name}, {setting}: on the front {told}.")
    if not figures:
        return None
    text = "Filled: nothing is detectably faster or more accurate without being detectably worse in the other. "
    return Plot(name="front", title="Accuracy and latency", text=text + " ".join(texts[:1]), figures=figures)


def beats(one: Plain, other: Plain) -> bool:
    """Whether a row is detectably better in latency or accuracy, and not detectably worse in the other.

    Intervals that overlap separate nothing.
    """
    faster, slower = ends(one)[1] < ends(other)[0], ends(one)[0] > ends(other)[1]
    ours, theirs = one["accuracy"]["top1_interval"], other["accuracy"]["top1_interval"]
    better, worse = ours[0] > theirs[1], ours[1] < theirs[0]
    return (faster and not worse) or (better and not slower)


def _front_figure(rows: Sequence[Plain], front: Sequence[Plain]) -> Figure:
    data = []
    for name, members in series(rows):
        for on_front in (True, False):
            group = [row for row in members if (row in front) is on_front]
            if not group:
                continue
            tops = [row["accuracy"] for row in group]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": " ".join(name) + ("" if on_front else ", beaten"),
                    "x": [rounded(median(row) * MILLI) for row in group],
                    "y": [rounded(100 * top["top1"]) for top in tops],
                    "text": [row["slug"] for row in group],
                    "error_x": error_x(group),
                    "error_y": {
                        "type": "data",
                        "symmetric": False,
                        "array": [rounded(100 * (top["top1_interval"][1] - top["top1"])) for top in tops],
                        "arrayminus": [rounded(100 * (top["top1"] - top["top1_interval"][0])) for top in tops],
                        "thickness": 1.2,
                    },
                    "marker": marker(name, hollow=not on_front, size=10),
                }
            )
    axes = {
        "xaxis": {"type": "log", "title": {"text": "median latency in ms"}},
        "yaxis": {"title": {"text": "top-1 accuracy in %"}},
        "height": 480,
    }
    return {"data": data, "layout": axes}


def _distributions(rows: Sequence[Plain]) -> Plot | None:
    figures: dict[str, Figure] = {}
    for key, group in groupby(rows, key=lambda row: (row["slug"], setting_of(row))):
        data = []
        for row in group:
            values = row["quantiles_ns"]
            if len(values) < 2:
                continue
            steps = len(values) - 1
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{row['backend']} {row['precision']}",
                    "x": [rounded(value * MILLI) for value in values],
                    "y": [rounded(100 * index / steps) for index in range(steps + 1)],
                    "line": {
                        "color": color_of(row["backend"]),
                        "dash": {"fp32": "solid", "fp16": "dot", "int8": "dash"}.get(row["precision"], "dashdot"),
                    },
                }
            )
        if data:
            figures[", ".join(key)] = {
                "data": data,
                "layout": {
                    "xaxis": {"type": "log", "title": {"text": "latency in ms"}},
                    "yaxis": {"title": {"text": "share of calls that took no longer, in %"}},
                    "height": 420,
                },
            }
    if not figures:
        return None
    text = "Order statistics of all timed calls: how large a share of them took no longer than a given time."
    return Plot(name="distributions", title="Distribution of the timed calls", text=text, figures=figures)


def _batches(rows: Sequence[Plain]) -> Plot | None:
    figures, told = {}, []
    for slug in dict.fromkeys(row["slug"] for row in rows):
        data = []
        for name, members in series([row for row in rows if row["slug"] == slug]):
            for where in dict.fromkeys((row["threads"], row["machine"]) for row in members):
                line = sorted(
                    (row for row in members if (row["threads"], row["machine"]) == where), key=lambda row: row["batch"]
                )
                if len({row["batch"] for row in line}) > 1:
                    data += list(_batch_lines(name, line))
        if data:
            figures[slug] = {"data": data, "layout": _TWO_AXES}
            told.append(slug)
    if not figures:
        return None
    text = f"Latency above and samples per second below, for batches of {', '.join(told)}."
    return Plot(name="batches", title="Larger batches", text=text, figures=figures)


_TWO_AXES: Figure = {
    "xaxis": {"type": "log", "dtick": 0.30103, "anchor": "y2", "title": {"text": "batch"}},
    "yaxis": {"type": "log", "domain": [0.55, 1.0], "title": {"text": "latency in ms"}},
    "yaxis2": {"type": "log", "domain": [0.0, 0.45], "title": {"text": "samples / s"}},
    "height": 560,
}


def _batch_lines(name: tuple[str, str], rows: Sequence[Plain]) -> Iterator[Figure]:
    common = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": " ".join(name),
        "legendgroup": " ".join(name),
        "x": [row["batch"] for row in rows],
        "marker": marker(name),
        "line": {"color": color_of(name[0])},
    }
    yield {**common, "y": [rounded(median(row) * MILLI) for row in rows]}
    yield {**common, "y": [rounded(row["throughput"]) for row in rows], "yaxis": "y2", "showlegend": False}
