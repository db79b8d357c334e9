"""Why it takes so long, and what eight bits and training did: roofline, noise of layers, curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from deploy.report.plot_parts import (
    Figure,
    Plain,
    Plot,
    by_setting,
    color_of,
    in_words,
    marker,
    median,
    operations,
    rounded,
    series,
)


def roofline(rows: Sequence[Plain], limits: Sequence[Plain]) -> Plot | None:
    """Roofline plot: operations per second over arithmetic intensity; None without limits."""
    known = [row for row in rows if row["work"] and row["limit"]]
    if not known or not limits:
        return None
    figures = {}
    for setting, group in by_setting(known).items():
        threads = group[0]["threads"]
        own = next((item for item in limits if item["threads"] == threads), None)
        if own is None:
            continue
        reach = [operations(row) / row["work"]["bytes"] for row in group]
        data = list(_roofs(own, min(reach) / 2, max(reach) * 2))
        for name, members in series(group):
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": " ".join(name),
                    "x": [rounded(operations(row) / row["work"]["bytes"]) for row in members],
                    "y": [rounded(operations(row) / median(row)) for row in members],
                    "text": [row["slug"] for row in members],
                    "marker": marker(name),
                }
            )
        figures[setting] = {
            "data": data,
            "layout": {
                "xaxis": {"type": "log", "title": {"text": "operations per byte that must be moved"}},
                "yaxis": {"type": "log", "title": {"text": "10⁹ operations / s"}},
                "height": 480,
            },
        }
    first = next(iter(by_setting(known).values()))
    best = max(first, key=lambda row: row["limit"]["attained"])
    text = f"The nearest to its floor is {in_words(best)} with {best['limit']['attained']:.0%} of what is attainable."
    return Plot(name="roofline", title="What the machine could do", text=text, figures=figures) if figures else None


def _roofs(limits: Plain, low: float, high: float) -> Iterator[Figure]:
    bandwidth = limits["bandwidth"][max(limits["bandwidth"], key=int)]
    for precision, peak in limits["operations"].items():
        knee = peak / bandwidth
        points = sorted({low, min(max(knee, low), high), high})
        yield {
            "type": "scatter",
            "mode": "lines",
            "name": f"peak of {precision} ({limits['by'].get(precision, 'measured')})",
            "x": [rounded(point) for point in points],
            "y": [rounded(min(peak, point * bandwidth) / 1e9) for point in points],
            "line": {"color": "#888888", "dash": "solid" if precision == "fp32" else "dash"},
        }


def sensitivity(found: Sequence[Plain]) -> Plot | None:
    """SQNR of each layer, the worst first; None without quantized models."""
    figures = {}
    for item in found:
        layers = sorted(item["layers"], key=lambda layer: -float(layer["sqnr_db"]))
        figures[f"{item['slug']}, for {item['target']}"] = {
            "data": [
                {
                    "type": "bar",
                    "orientation": "h",
                    "x": [rounded(float(layer["sqnr_db"])) for layer in layers],
                    "y": [layer["layer"] for layer in layers],
                    "marker": {"color": color_of(item["target"])},
                }
            ],
            "layout": {
                "height": 140 + 22 * len(layers),
                "xaxis": {"title": {"text": "signal to noise in dB; less is worse"}},
                "yaxis": {"automargin": True},
            },
        }
    if not figures:
        return None
    worst = min((float(layer["sqnr_db"]), layer["layer"], item["slug"]) for item in found for layer in item["layers"])
    text = f"Noise of rounding at the layers with most of it; the worst is {worst[1]} of {worst[2]}, {worst[0]:.1f} dB."
    return Plot(name="sensitivity", title="Which layers eight bits hurt", text=text, figures=figures)


def curves(curves: Mapping[str, Sequence[Plain]]) -> Plot | None:
    """Loss and accuracy by epoch; None where nothing was trained."""
    figures, told = {}, []
    for slug, rows in curves.items():
        epochs = [row["epoch"] for row in rows]
        data = []
        for split, words, dash in (("train", "training", "dash"), ("test", "held out", "solid")):
            for column, axis in (("loss", "y"), ("top1", "y2")):
                data.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers" if len(rows) < 3 else "lines",
                        "name": words,
                        "legendgroup": words,
                        "showlegend": axis == "y",
                        "x": epochs,
                        "y": [rounded(row[f"{split}_{column}"] * (100 if column == "top1" else 1)) for row in rows],
                        "yaxis": axis,
                        "line": {"color": color_of("onnxruntime" if split == "test" else "torch"), "dash": dash},
                    }
                )
        figures[slug] = {"data": data, "layout": _CURVE_AXES}
        told.append(f"{slug} {100 * rows[-1]['test_top1']:.1f} % after {len(rows)} epochs")
    if not figures:
        return None
    text = f"Held-out top-1 accuracy at the end: {'; '.join(told)}."
    return Plot(name="curves", title="Training", text=text, figures=figures)


_CURVE_AXES: Figure = {
    "xaxis": {"anchor": "y2", "title": {"text": "epoch"}},
    "yaxis": {"type": "log", "domain": [0.55, 1.0], "title": {"text": "cross-entropy"}},
    "yaxis2": {"domain": [0.0, 0.45], "title": {"text": "top-1 in %"}},
    "height": 520,
}
