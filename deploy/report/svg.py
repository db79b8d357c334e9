"""Static charts as SVG: they need no scripts, take the page's colors, and print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from deploy.report.scale import Scale

Figure = Mapping[str, Any]

SIZE = 4.5
"""Half the width of a marker, in pixels."""
MARKS = {
    "circle": "M-{0},0a{0},{0} 0 1,0 {1},0a{0},{0} 0 1,0 -{1},0z",
    "square": "M-{2},-{2}h{3}v{3}h-{3}z",
    "diamond": "M0,-{4}L{4},0L0,{4}L-{4},0z",
    "x": "M-{0},-{0}L{0},{0}M-{0},{0}L{0},-{0}",
}
DASHES = {"dot": "1.5 3.5", "dash": "6 4", "dashdot": "6 3 1.5 3"}


def percent(share: float) -> str:
    """Return a share as SVG writes it."""
    return f"{100 * share:.2f}%"


def mark(x: str, y: str, symbol: str, color: str, title: str = "") -> str:
    """Return a marker; ``-open`` after the symbol leaves it empty."""
    shape = MARKS.get(symbol.removesuffix("-open"), MARKS["x"])
    path = shape.format(*(f"{value:g}" for value in (SIZE, 2 * SIZE, SIZE * 0.88, SIZE * 1.76, SIZE * 1.3)))
    fill = "var(--ground)" if symbol.endswith("-open") else color
    inner = f"<title>{escape(title)}</title>" if title else ""
    path = f'<path d="{path}" fill="{fill}" stroke="{color}" stroke-width="1.6">{inner}</path>'
    return f'<svg x="{x}" y="{y}" overflow="visible">{path}</svg>'


def segment(start: tuple[str, str], end: tuple[str, str], style: str) -> str:
    """Return a straight line; ``style`` has its class or attributes."""
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {style}/>'


def label(x: str, y: str, text: str, style: str = "") -> str:
    """Return a text; ``style`` has further attributes."""
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'


def number(value: float) -> str:
    """Return a number on an axis."""
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, _, power = f"{value:.0e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:.6g}"


def drawn(figure: Figure, text: str) -> str:
    """Return a figure of `deploy.report.plots` as HTML: its key, and an SVG for each of its plots.

    ``text`` is read by screen readers.
    """
    layout = figure["layout"]
    plots = _plots(layout)
    height = int(layout["height"]) / len(plots)
    parts = [
        _plot([trace for trace in figure["data"] if trace.get("yaxis", "y") == name], layout["xaxis"], axis, height)
        for name, axis in plots
    ]
    return f'{_key(figure["data"])}<div role="img" aria-label="{escape(text)}">{"".join(parts)}</div>'


def _plots(layout: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the plots from the top down: the name of the y-axis and the axis."""
    axes = [("y", layout["yaxis"]), *([("y2", layout["yaxis2"])] if "yaxis2" in layout else [])]
    return sorted(axes, key=lambda item: -item[1].get("domain", (0, 1))[0])


def _plot(
    traces: Sequence[Mapping[str, Any]], x_axis: Mapping[str, Any], y_axis: Mapping[str, Any], height: float
) -> str:
    """Return one plot. What is left of it and below is written outside of its area, so that shares are of the area."""
    bars = bool(traces) and traces[0]["type"] == "bar"
    names = list(traces[0]["y"]) if bars else []
    left, below = (12 + 7 * min(28, max(map(len, names), default=0)) if bars else 62), 46
    tall = height - below - 10
    x_scale = _scale(traces, "x", x_axis, bars)
    parts = []
    for value in x_scale.ticks():
        x = percent(x_scale.at(value))
        parts.append(segment((x, "0"), (x, f"{tall:.0f}"), 'class="grid"'))
        parts.append(label(x, f"{tall + 17:.0f}", number(value), 'text-anchor="middle"'))
    if bars:
        parts += _bars(traces[0], x_scale, tall)
    else:
        y_scale = _scale(traces, "y", y_axis, False)
        for value in y_scale.ticks(max(3, int(tall / 45))):
            y = f"{tall * (1 - y_scale.at(value)):.1f}"
            parts.append(segment(("0", y), ("100%", y), 'class="grid"'))
            parts.append(label("-6", y, number(value), 'text-anchor="end" dominant-baseline="middle"'))
        for trace in traces:
            parts += _trace(trace, x_scale, y_scale, tall)
    parts.append(label("50%", f"{tall + 37:.0f}", x_axis["title"]["text"], 'text-anchor="middle"'))
    title = y_axis.get("title", {}).get("text", "")
    if title:
        turned = f'transform="translate({13 - left} {tall / 2:.0f}) rotate(-90)" text-anchor="middle"'
        parts.append(label("0", "0", title, turned))
    place = f"margin: 10px 16px {below}px {left}px; width: calc(100% - {left + 16}px)"
    return f'<svg class="chart" style="{place}" height="{tall:.0f}">{"".join(parts)}</svg>'


def _scale(traces: Sequence[Mapping[str, Any]], name: str, axis: Mapping[str, Any], from_zero: bool) -> Scale:
    values = [float(value) for trace in traces for value in trace[name]]
    for trace in traces:
        errors = trace.get(f"error_{name}")
        if errors:
            values += [value + error for value, error in zip(trace[name], errors["array"], strict=True)]
            values += [value - error for value, error in zip(trace[name], errors["arrayminus"], strict=True)]
    return Scale.of([*values, *([0.0] if from_zero else [])], log=axis.get("type") == "log")


def _trace(trace: Mapping[str, Any], x_scale: Scale, y_scale: Scale, tall: float) -> Iterator[str]:
    points = [
        (x_scale.at(float(x)), tall * (1 - y_scale.at(float(y)))) for x, y in zip(trace["x"], trace["y"], strict=True)
    ]
    marker, line = trace.get("marker", {}), trace.get("line", {})
    color = line.get("color") or marker.get("color") or "var(--ink)"
    if "lines" in trace["mode"]:
        dash = f' stroke-dasharray="{DASHES[line["dash"]]}"' if line.get("dash") in DASHES else ""
        style = f'stroke="{color}" stroke-width="1.8"{dash}'
        for (x1, y1), (x2, y2) in pairwise(points):
            yield segment((percent(x1), f"{y1:.1f}"), (percent(x2), f"{y2:.1f}"), style)
    yield from _errors(trace, x_scale, y_scale, tall, color)
    if "markers" in trace["mode"]:
        texts = trace.get("text") or [trace["name"]] * len(points)
        for (x, y), text in zip(points, texts, strict=True):
            yield mark(percent(x), f"{y:.1f}", marker.get("symbol", "circle"), color, f"{text}, {trace['name']}")


def _errors(trace: Mapping[str, Any], x_scale: Scale, y_scale: Scale, tall: float, color: str) -> Iterator[str]:
    style = f'stroke="{color}" stroke-width="1.2" opacity="0.45"'
    for index, (x, y) in enumerate(zip(trace["x"], trace["y"], strict=True)):
        across, down = percent(x_scale.at(x)), f"{tall * (1 - y_scale.at(y)):.1f}"
        if "error_x" in trace:
            low, high = _ends(trace["error_x"], index, x)
            yield segment((percent(x_scale.at(low)), down), (percent(x_scale.at(high)), down), style)
        if "error_y" in trace:
            low, high = _ends(trace["error_y"], index, y)
            ends = [f"{tall * (1 - y_scale.at(end)):.1f}" for end in (low, high)]
            yield segment((across, ends[0]), (across, ends[1]), style)


def _ends(errors: Mapping[str, Any], index: int, value: float) -> tuple[float, float]:
    return value - errors["arrayminus"][index], value + errors["array"][index]


def _bars(trace: Mapping[str, Any], scale: Scale, tall: float) -> Iterator[str]:
    """Yield horizontal bars from 0, the last value on top."""
    high = tall / max(1, len(trace["x"]))
    zero = scale.at(0.0)
    for index, (value, name) in enumerate(zip(reversed(trace["x"]), reversed(trace["y"]), strict=True)):
        end = scale.at(float(value))
        start, wide = min(zero, end), abs(end - zero)
        y = high * index
        yield (
            f'<rect x="{percent(start)}" y="{y + high * 0.15:.1f}" width="{percent(wide)}" height="{high * 0.7:.1f}" '
            f'fill="{trace["marker"]["color"]}"><title>{escape(f"{name}: {value}")}</title></rect>'
        )
        shown = name if len(name) <= 28 else f"…{name[-27:]}"
        yield label("-6", f"{y + high / 2:.1f}", shown, 'text-anchor="end" dominant-baseline="middle"')


def _key(traces: Sequence[Mapping[str, Any]]) -> str:
    """Return the key of a figure: a list of its series; empty for a single one."""
    named = [trace for trace in traces if trace.get("name") and trace.get("showlegend", True)]
    if len(named) < 2:
        return ""
    return f'<ul class="key">{"".join(_entry(trace) for trace in named)}</ul>'


def _entry(trace: Mapping[str, Any]) -> str:
    marker, line = trace.get("marker", {}), trace.get("line", {})
    color = line.get("color") or marker.get("color") or "var(--ink)"
    parts = []
    if "lines" in trace["mode"]:
        dash = f' stroke-dasharray="{DASHES[line["dash"]]}"' if line.get("dash") in DASHES else ""
        parts.append(segment(("0", "8"), ("22", "8"), f'stroke="{color}" stroke-width="1.8"{dash}'))
    if "markers" in trace["mode"]:
        parts.append(mark("11", "8", marker.get("symbol", "circle"), color))
    return f'<li><svg width="22" height="16" aria-hidden="true">{"".join(parts)}</svg> {escape(trace["name"])}</li>'
