"""The report's plots, as figures for Plotly: traces and layouts in plain values, and each plot's content in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from deploy.core.backend import backends, title_of
from deploy.report import score
from deploy.report.rows import JsonObject
from deploy.report.svg import drawn
from deploy.support.formatting import duration

Figure = dict[str, Any]
Series = tuple[str, str]
"""Backend and precision."""

OTHER_COLOR = "#56B4E9"
"""Color of a backend that declares none. The built-in ones use Okabe and Ito's color-blind-safe palette."""
SYMBOLS = {"fp32": "circle", "fp16": "square", "bf16": "square", "int8": "diamond"}
DASHES = {"fp32": "solid", "fp16": "dot", "bf16": "dot", "int8": "dash"}
MS_PER_NS = 1e-6
UPPER, LOWER = (0.55, 1.0), (0.0, 0.45)
"""Heights of two plots, one above the other, as shares of the figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One plot of the page.

    Attributes:
        name: id on the page.
        text: content in words, as caption and for screen readers.
        figures: figures by the choice that shows them; a single one needs no choice.
    """

    name: str
    title: str
    text: str
    figures: Mapping[str, Figure]

    @property
    def static(self) -> str:
        """The first figure as HTML that needs no scripts."""
        return drawn(next(iter(self.figures.values())), f"{self.title}. {self.text}")


def make_plots(document: JsonObject) -> list[Plot]:
    """Return the plots for which the report has data; see `deploy.report.write.describe`."""
    rows = [row for row in document["rows"] if row["latency"] and row["scenario"] == "latency"]
    return [
        *_accuracy(rows),
        *_distributions(rows),
        *_batches(rows),
        *_roofline(rows, document["limits"]),
        *_sensitivity(document["sensitivity"]),
        *_curves(document["curves"]),
    ]


def _accuracy(rows: Sequence[JsonObject]) -> Iterator[Plot]:
    """Top-1 accuracy, mAP or mIoU against latency, with the Pareto front."""
    figures, texts = {}, []
    for setting, group in rows_by_setting([row for row in rows if row["accuracy"]]).items():
        for data_name, metric in dict.fromkeys(map(_scored, group)):
            members = [row for row in group if _scored(row) == (data_name, metric)]
            front = [row for row in members if not any(dominates(other, row) for other in members)]
            name = data_name if metric == "top-1" else f"{metric} on {data_name}"
            figures[f"{name}, {setting}"] = _accuracy_figure(members, front, metric)
            labels = (f"{_label(row)} {score.value(row['accuracy']):.1%}" for row in sorted(front, key=median_ns))
            texts.append(f"On the front ({name}, {setting}): {', '.join(labels)}.")
    if not figures:
        return
    text = (
        "Filled points are on the Pareto front: no other configuration is detectably better in latency or accuracy "
        "without being detectably worse in the other. "
    )
    yield Plot(name="front", title="Accuracy and latency", text=text + texts[0], figures=figures)


def _scored(row: JsonObject) -> tuple[str, str]:
    return row["accuracy"]["data"], score.metric(row["accuracy"])


def dominates(first: JsonObject, second: JsonObject) -> bool:
    """Return whether a row is detectably better than another in latency or accuracy, and not worse in the other.

    Values whose confidence intervals overlap count as equal.
    """
    (low, high), (other_low, other_high) = interval_ns(first), interval_ns(second)
    own, other = score.interval(first["accuracy"]), score.interval(second["accuracy"])
    faster, slower = high < other_low, low > other_high
    better, worse = own[0] > other[1], own[1] < other[0]
    return (faster and not worse) or (better and not slower)


def _accuracy_figure(rows: Sequence[JsonObject], front: Sequence[JsonObject], metric: str) -> Figure:
    data = []
    for name, members in _by_series(rows):
        for on_front in (True, False):
            group = [row for row in members if (row in front) is on_front]
            if not group:
                continue
            known = [row["accuracy"] for row in group]
            points = _points(
                name,
                group,
                _latencies_ms(group),
                [100 * score.value(item) for item in known],
                error_x=_latency_errors(group),
                error_y=_errors(
                    [100 * (score.interval(item)[1] - score.value(item)) for item in known],
                    [100 * (score.value(item) - score.interval(item)[0]) for item in known],
                ),
            )
            if not on_front:
                points["name"] += ", not on the front"
                points["marker"]["symbol"] += "-open"
            data.append(points)
    return _figure(
        data, _log("median latency in ms"), _axis("top-1 accuracy in %" if metric == "top-1" else f"{metric} in %")
    )


def _distributions(rows: Sequence[JsonObject]) -> Iterator[Plot]:
    figures: dict[str, Figure] = {}
    for key, group in groupby(rows, key=lambda row: (row["slug"], _setting(row))):
        data = []
        for row in group:
            values = row["quantiles_ns"]
            if len(values) < 2:
                continue
            shares = [100 * index / (len(values) - 1) for index in range(len(values))]
            line = {"color": _color(row["backend"]), "dash": DASHES.get(row["precision"], "dashdot")}
            name = _series((row["backend"], row["precision"]))
            data.append(_trace("lines", name, [value * MS_PER_NS for value in values], shares, line=line))
        if data:
            axes = _log("latency in ms"), _axis("cumulative share of calls in %")
            figures[", ".join(key)] = _figure(data, *axes, height=420)
    if figures:
        text = "Cumulative distribution of the latency of single calls, all processes together."
        yield Plot(name="distributions", title="Latency distribution", text=text, figures=figures)


def _batches(rows: Sequence[JsonObject]) -> Iterator[Plot]:
    figures: dict[str, Figure] = {}
    for slug in dict.fromkeys(row["slug"] for row in rows):
        data: list[Figure] = []
        for name, members in _by_series([row for row in rows if row["slug"] == slug]):
            for where in dict.fromkeys((row["threads"], row["machine"]) for row in members):
                line = sorted(
                    (row for row in members if (row["threads"], row["machine"]) == where), key=lambda row: row["batch"]
                )
                if len({row["batch"] for row in line}) > 1:
                    data += _batch_lines(name, line)
        if data:
            figures[slug] = _figure(
                data,
                _log("batch", dtick=0.30103, anchor="y2"),
                _log("latency in ms", domain=UPPER),
                height=560,
                yaxis2=_log("samples / s", domain=LOWER),
            )
    if figures:
        text = f"Latency (top) and throughput (bottom) by batch size: {', '.join(figures)}."
        yield Plot(name="batches", title="Batch size", text=text, figures=figures)


def _batch_lines(name: Series, rows: Sequence[JsonObject]) -> list[Figure]:
    title, batches = _series(name), [row["batch"] for row in rows]
    style = {"legendgroup": title, "marker": _marker(name), "line": {"color": _color(name[0])}}
    throughputs = [row["throughput"] for row in rows]
    return [
        _trace("lines+markers", title, batches, _latencies_ms(rows), **style),
        _trace("lines+markers", title, batches, throughputs, yaxis="y2", showlegend=False, **style),
    ]


def _roofline(rows: Sequence[JsonObject], limits: Sequence[JsonObject]) -> Iterator[Plot]:
    """Operations per second against arithmetic intensity, below the machine's roofs."""
    known = [row for row in rows if row["work"] and row["limit"]]
    figures = {}
    for setting, group in rows_by_setting(known).items():
        machine = next((item for item in limits if item["threads"] == group[0]["threads"]), None)
        if machine is None:
            continue
        intensities = [_operations(row) / row["work"]["bytes"] for row in group]
        data = list(_roofs(machine, min(intensities) / 2, max(intensities) * 2))
        for name, members in _by_series(group):
            x = [_operations(row) / row["work"]["bytes"] for row in members]
            y = [_operations(row) / median_ns(row) for row in members]
            data.append(_points(name, members, x, y))
        axes = _log("arithmetic intensity in operations / byte"), _log("10⁹ operations / s")
        figures[setting] = _figure(data, *axes)
    if not figures:
        return
    setting, group = next(iter(rows_by_setting(known).items()))
    best = max(group, key=lambda row: float(row["limit"]["attained"]))
    text = f"Closest to its roof ({setting}): {_label(best)}, {best['limit']['attained']:.0%} of the attainable."
    yield Plot(name="roofline", title="Roofline", text=text, figures=figures)


def _operations(row: JsonObject) -> float:
    return float(sum(row["work"]["operations"].values()))


def _roofs(limits: JsonObject, low: float, high: float) -> Iterator[Figure]:
    """Yield the roof of each precision between two arithmetic intensities."""
    bandwidth = limits["bandwidth"][max(limits["bandwidth"], key=int)]
    for precision, peak in limits["operations"].items():
        ridge = peak / bandwidth
        points = sorted({low, min(max(ridge, low), high), high})
        name = f"{precision} roof ({limits['by'].get(precision, 'measured')})"
        line = {"color": "#888888", "dash": "solid" if precision == "fp32" else "dash"}
        yield _trace("lines", name, points, [min(peak, point * bandwidth) / 1e9 for point in points], line=line)


def _sensitivity(models: Sequence[JsonObject]) -> Iterator[Plot]:
    """SQNR of the noisiest layers of each INT8 file, the worst on top."""
    figures = {}
    for item in models:
        layers = sorted(item["layers"], key=lambda layer: -float(layer["sqnr_db"]))
        bars = {
            "type": "bar",
            "orientation": "h",
            "x": _rounded([float(layer["sqnr_db"]) for layer in layers]),
            "y": [layer.get("module") or layer["layer"] for layer in layers],
            "marker": {"color": _color(item["target"])},
        }
        axes = _axis("SQNR in dB (lower is worse)"), {"automargin": True}
        figures[f"{item['slug']}, for {item['target']}"] = _figure([bars], *axes, height=140 + 22 * len(layers))
    if not figures:
        return
    worst = min(
        (float(layer["sqnr_db"]), layer.get("module") or layer["layer"], item["slug"])
        for item in models
        for layer in item["layers"]
    )
    text = (
        "SQNR of the layers with the most quantization noise; the lowest is "
        f"{worst[0]:.1f} dB, in {worst[1]} of {worst[2]}."
    )
    yield Plot(name="sensitivity", title="Quantization noise by layer", text=text, figures=figures)


CURVES = {"top1": "top-1", "map": "mAP", "miou": "mIoU"}
"""Scores of training curves by their columns."""


def _curves(curves: Mapping[str, Sequence[JsonObject]]) -> Iterator[Plot]:
    figures, texts = {}, []
    for slug, rows in curves.items():
        column_of_score = next(column for column in CURVES if f"test_{column}" in rows[0])
        name = CURVES[column_of_score]
        data = [
            _trace(
                "lines+markers" if len(rows) < 3 else "lines",
                split,
                [row["epoch"] for row in rows],
                [factor * row[f"{split}_{column}"] for row in rows],
                legendgroup=split,
                showlegend=axis == "y",
                yaxis=axis,
                line={"color": color, "dash": dash},
            )
            for split, color, dash in (("train", _color("torch"), "dash"), ("test", _color("onnxruntime"), "solid"))
            for column, axis, factor in (("loss", "y", 1), (column_of_score, "y2", 100))
            if f"{split}_{column}" in rows[0]
        ]
        axes = _axis("epoch", anchor="y2"), _log("cross-entropy" if name == "top-1" else "loss", domain=UPPER)
        figures[slug] = _figure(data, *axes, height=520, yaxis2=_axis(f"{name} in %", domain=LOWER))
        epochs = f"{len(rows)} epoch{'' if len(rows) == 1 else 's'}"
        texts.append(f"{slug} {name} {100 * rows[-1][f'test_{column_of_score}']:.1f} % after {epochs}")
    if figures:
        yield Plot(name="curves", title="Training", text=f"At the end, held out: {'; '.join(texts)}.", figures=figures)


def _figure(data: list[Figure], x: Figure, y: Figure, *, height: int = 480, **more: Figure) -> Figure:
    return {"data": data, "layout": {"height": height, "xaxis": x, "yaxis": y, **more}}


def _axis(title: str, **more: Any) -> Figure:
    return {"title": {"text": title}, **more}


def _log(title: str, **more: Any) -> Figure:
    return _axis(title, type="log", **more)


def _trace(mode: str, name: str, x: Sequence[float], y: Sequence[float], **more: Any) -> Figure:
    return {"type": "scatter", "mode": mode, "name": name, "x": _rounded(x), "y": _rounded(y), **more}


def _points(name: Series, rows: Sequence[JsonObject], x: Sequence[float], y: Sequence[float], **more: Any) -> Figure:
    slugs = [row["slug"] for row in rows]
    return _trace("markers", _series(name), x, y, text=slugs, marker=_marker(name), **more)


def _series(name: Series) -> str:
    return f"{title_of(name[0])} {name[1]}"


def _marker(name: Series) -> dict[str, Any]:
    backend, precision = name
    return {"color": _color(backend), "symbol": SYMBOLS.get(precision, "x"), "size": 9}


def _color(backend: str) -> str:
    known = backends()
    return (known[backend].color if backend in known else None) or OTHER_COLOR


def _latency_errors(rows: Sequence[JsonObject]) -> dict[str, Any]:
    return _errors(
        [(interval_ns(row)[1] - median_ns(row)) * MS_PER_NS for row in rows],
        [(median_ns(row) - interval_ns(row)[0]) * MS_PER_NS for row in rows],
    )


def _errors(plus: Sequence[float], minus: Sequence[float]) -> dict[str, Any]:
    bars = {"array": _rounded(plus), "arrayminus": _rounded(minus)}
    return {"type": "data", "symmetric": False, **bars, "thickness": 1.2}


def _rounded(values: Sequence[float]) -> list[float]:
    """Return values with five significant digits, to keep the page small."""
    return [float(f"{value:.5g}") for value in values]


def median_ns(row: JsonObject) -> float:
    """Return the median latency of a row in ns."""
    return float(row["latency"]["median_ns"]["value"])


def _latencies_ms(rows: Sequence[JsonObject]) -> list[float]:
    return [median_ns(row) * MS_PER_NS for row in rows]


def interval_ns(row: JsonObject) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median latency in ns; the median twice if there is none."""
    median = row["latency"]["median_ns"]
    if median["low"] is None:
        return median["value"], median["value"]
    return median["low"], median["high"]


def _setting(row: JsonObject) -> str:
    """Return in words what rows must share to be in one figure; the first machine is not named."""
    words = [f"batch {row['batch']}", f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"]
    words += [row["device"]] if row["device"] != "cpu" else []
    words += [f"machine {row['machine'] + 1}"] if row["machine"] else []
    return ", ".join(words)


def rows_by_setting(rows: Sequence[JsonObject]) -> dict[str, list[JsonObject]]:
    """Return comparable rows together; the setting with the most rows first."""
    groups: dict[str, list[JsonObject]] = {}
    for row in rows:
        groups.setdefault(_setting(row), []).append(row)
    return dict(sorted(groups.items(), key=lambda pair: -len(pair[1])))


def _by_series(rows: Sequence[JsonObject]) -> list[tuple[Series, list[JsonObject]]]:

    def key(row: JsonObject) -> Series:
        return row["backend"], row["precision"]

    return [(name, list(group)) for name, group in groupby(sorted(rows, key=key), key=key)]


def _label(row: JsonObject) -> str:
    return f"{row['slug']} {duration(median_ns(row))} ({_series((row['backend'], row['precision']))})"
