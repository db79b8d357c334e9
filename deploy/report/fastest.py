"""What the page opens with: the fastest configuration of each model, beside a chart of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.core.artifact import UNPROVEN
from deploy.core.backend import title_of
from deploy.report import score
from deploy.report.advice import PRECISIONS, where
from deploy.report.plots import MS_PER_NS, interval_ns, median_ns, rows_by_setting
from deploy.report.rows import JsonObject
from deploy.report.scale import Scale
from deploy.report.svg import label, mark, number, percent, segment
from deploy.support.deployment import VARIANT
from deploy.support.formatting import duration, size

COLORS = {"fp32": "var(--float)", "fp16": "var(--half)", "bf16": "var(--half)", "int8": "var(--int8)"}
SYMBOLS = {"fp32": "circle-open", "fp16": "square", "bf16": "square", "int8": "diamond"}
BEFORE = 0.13
"""Free space for a number before the smallest value, as a share of the chart."""
UNBROKEN = {ord(" "): "\N{NO-BREAK SPACE}", ord("-"): "\N{NON-BREAKING HYPHEN}"}
HEIGHT, APART = 24, 8
"""Height of a line of the chart, and the distance of the marks in it, so that their intervals can be told apart; in
pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One backend of a model: its name, and its configurations as SVG and in words."""

    backend: str
    svg: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fastest:
    """The fastest configuration of one model, and all of them as lines of the chart.

    Attributes:
        fastest: its latency; ``how`` names precision and backend.
        facts: speedup, accuracy, size.
        remarks: ties, what is fastest without a detectable loss of accuracy, and why INT8 is not faster.
    """

    slug: str
    fastest: str
    how: str
    facts: tuple[str, ...]
    remarks: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Models that were timed in the same setting: batch, threads, machine.

    Attributes:
        title: the setting in words.
        axis: the numbers of the latency axis, as SVG.
        precisions: those in the chart, with a mark as SVG.
    """

    title: str
    axis: str
    precisions: tuple[tuple[str, str], ...]
    models: tuple[Fastest, ...]


def settings(document: JsonObject) -> list[Setting]:
    """Return what a report (`deploy.report.write.describe`) opens with, the setting with the most rows first."""
    rows = [row for row in document["rows"] if row["latency"] and row["scenario"] == "latency"]
    return [_setting(title, group, document) for title, group in rows_by_setting(rows).items()]


def _setting(title: str, rows: Sequence[JsonObject], document: JsonObject) -> Setting:
    ends = [end * MS_PER_NS for row in rows for end in (*interval_ns(row), median_ns(row))]
    scale = Scale.of(ends, log=True, before=BEFORE)
    slugs = sorted({row["slug"] for row in rows})
    known = [name for name in COLORS if any(row["precision"] == name for row in rows)]
    return Setting(
        title=title,
        axis="".join(
            label(percent(scale.at(value)), "14", f"{number(value)} ms", 'text-anchor="middle"')
            for value in scale.ticks()
        ),
        precisions=tuple(
            (PRECISIONS.get(name, name), mark("8", "8", SYMBOLS.get(name, "x"), COLORS[name])) for name in known
        ),
        models=tuple(_fastest([row for row in rows if row["slug"] == slug], scale, document) for slug in slugs),
    )


def _fastest(rows: Sequence[JsonObject], scale: Scale, document: JsonObject) -> Fastest:
    best = min(rows, key=lambda row: (row["mark"] != "best", median_ns(row)))
    return Fastest(
        slug=best["slug"],
        fastest=duration(median_ns(best)),
        how=_how(best),
        facts=tuple(text.translate(UNBROKEN) for text in _facts(best, document["baseline"])),
        remarks=tuple(_remarks(best, rows, document)),
        lines=tuple(_lines(rows, best, scale)),
    )


def _how(row: JsonObject) -> str:
    return f"{PRECISIONS.get(row['precision'], row['precision'])} on {title_of(row['backend'])}{_options(row)}"


def _options(row: JsonObject) -> str:
    graphs, variant = row["options"].get("graph"), row["options"].get(VARIANT)
    return (" with CUDA graphs" if graphs else "") + (f", {variant}" if variant else "")


def _facts(row: JsonObject, baseline: str) -> Iterator[str]:
    speedup = row["speedup"]
    if speedup and (row["backend"], row["precision"]) != (baseline, "fp32"):
        ends = "" if speedup["low"] is None else f" ({speedup['low']:.2f}–{speedup['high']:.2f})"
        yield f"{speedup['value']:.2f}× {title_of(baseline)}{ends}"
    yield _accuracy(row)
    if row["bytes"]:
        yield size(row["bytes"])


def _accuracy(row: JsonObject) -> str:
    known = row["accuracy"]
    if known is None:
        return "accuracy not measured" if row["trained"] else "untrained weights"
    text = f"{score.metric(known)} {100 * score.value(known):.1f} %"
    if known["difference"] is None:
        return text
    low, high = (100 * end for end in known["difference_interval"])
    return f"{text}, {100 * known['difference']:+.1f} points ({low:+.1f} to {high:+.1f})"


def _remarks(best: JsonObject, rows: Sequence[JsonObject], document: JsonObject) -> Iterator[str]:
    if best["evidence"].get("verdict") == UNPROVEN:
        yield f"{UNPROVEN}: no model is known to compare the file with"
    if _loses(best):
        kept = [row for row in rows if row["accuracy"] and not _loses(row)]
        if kept:
            fastest = min(kept, key=median_ns)
            yield f"no detectable loss of {score.metric(best['accuracy'])}: {_how(fastest)}, {_time(fastest)}"
    ties = [_how(row) for row in rows if row["mark"] == "tie"]
    if ties:
        yield f"not detectably slower: {', '.join(ties)}"
    place = where({**best, "machine": document["machines"][best["machine"]]["machine"]})
    for item in document["advice"]:
        if item["kind"] == "int8" and (item["model"], item["where"]) == (best["slug"], place):
            yield item["text"]


def _loses(row: JsonObject) -> bool:
    """Return whether a row is detectably less accurate than PyTorch."""
    known = row["accuracy"]
    return bool(known and known["difference"] is not None and known["difference_interval"][1] < 0)


def _lines(rows: Sequence[JsonObject], best: JsonObject, scale: Scale) -> Iterator[Line]:
    """Yield a line for each backend, the fastest first: its marks, intervals and the number of its fastest one."""
    groups: dict[tuple[str, str], list[JsonObject]] = {}
    for row in sorted(rows, key=median_ns):
        groups.setdefault((row["backend"], _options(row)), []).append(row)
    for (backend, options), members in groups.items():
        yield Line(
            backend=f"{title_of(backend)}{options}",
            svg="".join([*_grid(scale), *_marks(members, best, scale)]),
            text="; ".join(f"{PRECISIONS.get(row['precision'], row['precision'])} {_time(row)}" for row in members),
        )


def _grid(scale: Scale) -> Iterator[str]:
    for value in scale.ticks():
        x = percent(scale.at(value))
        yield segment((x, "0"), (x, "100%"), 'class="grid"')


def _marks(rows: Sequence[JsonObject], best: JsonObject, scale: Scale) -> Iterator[str]:
    apart = min(APART, HEIGHT / (len(rows) + 1))
    for index, row in enumerate(rows):
        color, place = COLORS.get(row["precision"], "var(--ink)"), percent(scale.at(median_ns(row) * MS_PER_NS))
        low, high = (percent(scale.at(end * MS_PER_NS)) for end in interval_ns(row))
        y = f"{HEIGHT / 2 + apart * (index - (len(rows) - 1) / 2):g}"
        yield segment((low, y), (high, y), f'stroke="{color}" stroke-width="2"')
        yield mark(place, y, SYMBOLS.get(row["precision"], "x"), color, f"{_how(row)}: {_time(row)}")
    weight = ' font-weight="700"' if rows[0] is best else ""
    start = scale.at(min(interval_ns(rows[0])[0], 0.98 * median_ns(rows[0])) * MS_PER_NS)
    style = f'text-anchor="end" dx="-8" dominant-baseline="central"{weight}'
    yield label(percent(start), "50%", duration(median_ns(rows[0])), style)


def _time(row: JsonObject) -> str:
    low, high = interval_ns(row)
    ends = f" ({duration(low)} to {duration(high)})" if low != high else ""
    return f"{duration(median_ns(row))}{ends}"
