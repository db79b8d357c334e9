"""The columns of the report's table, and the lines of text that the page, Markdown and the terminal share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploy.core.backend import backends
from deploy.report import score
from deploy.report.rows import JsonObject
from deploy.support.formatting import UNKNOWN, duration, runs_on, size, spread, times_faster

CONFIGURATION_HEADS = ("model", "backend", "precision", "batch", "threads")
MACHINE_HEADS = ("latency", "speedup")
"""Heads of the columns of each machine."""
SortKey = float | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table.

    Attributes:
        name: CSS class on the page.
        text: returns a row's cell.
        key: returns what the cell is sorted by; None if unknown.
        number: whether it is right-aligned and sorted as numbers.
        legend: explanation of the cells; empty if the heading says enough.
    """

    name: str
    head: str
    text: Callable[[JsonObject], str]
    key: Callable[[JsonObject], SortKey]
    number: bool = True
    legend: str = ""


def latency_text(row: JsonObject) -> str:
    """Return the median latency with its interval, ``34 µs ±0.5 %``."""
    if row["latency"] is None:
        return "failed" if row["failure"] else UNKNOWN
    median = row["latency"]["median_ns"]
    return f"{duration(median['value'])} {spread(**median)}".removesuffix(f" {UNKNOWN}")


def speedup_text(row: JsonObject) -> str:
    """Return the speedup over the baseline with its interval, ``6.50× ±1.9 %``; empty if there is none."""
    return times_faster(**row["speedup"]).removesuffix(f" {UNKNOWN}") if row["speedup"] else ""


def _backend(row: JsonObject) -> str:
    return runs_on(row["backend"], row["options"])


def _parity(row: JsonObject) -> str:
    stale = " stale" if row.get("stale") else ""
    return f"{row['evidence'].get('verdict', '?')}{stale}{' !' if row['flags'] else ''}"


def _score(row: JsonObject) -> float | None:
    return None if row["accuracy"] is None else score.value(row["accuracy"])


def _top1(row: JsonObject) -> str:
    known = row["accuracy"]
    if known is None:
        return UNKNOWN
    low, high = score.interval(known)
    name = "" if score.metric(known) == "top-1" else f"{score.metric(known)} "
    return f"{name}{100 * score.value(known):.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _roofline(row: JsonObject) -> str:
    limit = row["limit"]
    if not limit or limit["attained"] is None:
        return UNKNOWN
    partly = " *" if limit["unknown"] else ""
    return f"{limit['attained']:.0%} {limit['bound'].partition('-')[0]}{partly}"


def _field(name: str) -> Callable[[JsonObject], SortKey]:
    return lambda row: row[name]


def _part(name: str, part: str) -> Callable[[JsonObject], SortKey]:
    return lambda row: row[name][part] if row[name] else None


def _formatted(name: str, form: str = "") -> Callable[[JsonObject], str]:
    return lambda row: UNKNOWN if row[name] is None else format(row[name], form)


CONFIGURATION: tuple[Column, ...] = (
    Column("model", "model", _formatted("slug"), _field("slug"), number=False),
    Column("backend", "backend", _backend, _backend, number=False),
    Column("precision", "precision", _formatted("precision"), _field("precision"), number=False),
)
SETTINGS: tuple[Column, ...] = (
    Column("batch", "batch", _formatted("batch"), _field("batch")),
    Column("threads", "threads", _formatted("threads"), _field("threads")),
    Column("scenario", "scenario", _formatted("scenario"), _field("scenario"), number=False),
    Column("device", "device", _formatted("device"), _field("device"), number=False),
    Column("machine", "machine", lambda row: str(row["machine"] + 1), _field("machine")),
)
"""Columns that are shown only if rows differ in them."""
RESULTS: tuple[Column, ...] = (
    Column(
        "parity",
        "parity",
        _parity,
        _parity,
        number=False,
        legend="pass = agrees with the float64 reference, reference = PyTorch in float32, measured = INT8, with its "
        "error in the evidence, poor = INT8 that is too far from the float file, unproven = no model is known to "
        "compare the file with, stale = measured with other weights than those of the export beside it, ! = "
        "interference was detected",
    ),
    Column(
        "latency",
        "latency",
        latency_text,
        lambda row: row["latency"]["median_ns"]["value"] if row["latency"] else None,
        legend="median with its 95 % confidence interval",
    ),
    Column(
        "mark",
        "rank",
        lambda row: row["mark"] or "",
        lambda row: {"best": "0", "tie": "1"}.get(row["mark"], "2"),
        number=False,
        legend="best = fastest configuration of the model in the same setting, tie = not detectably slower",
    ),
    Column("p99", "p99", lambda row: duration((row["latency"] or {}).get("p99_ns")), _part("latency", "p99_ns")),
    Column("throughput", "samples/s", _formatted("throughput", ".4g"), _field("throughput")),
    Column(
        "speedup",
        "speedup",
        speedup_text,
        _part("speedup", "value"),
        legend="relative to the baseline, ≈ 1× = no difference, cannot tell = the confidence interval is too wide",
    ),
    Column("top1", "top-1", _top1, _score, legend="accuracy (or mAP, mIoU) with its 95 % confidence interval"),
    Column(
        "attained",
        "roofline",
        _roofline,
        _part("limit", "attained"),
        legend="lower bound of the latency on this machine / latency, and what sets the bound, * = the bound excludes "
        "operators of unknown cost",
    ),
    Column("size", "size", lambda row: size(row["bytes"]), _field("bytes")),
    Column("parameters", "parameters", _formatted("parameters", ",d"), _field("parameters")),
)
"""Columns that are shown only if something in them is known."""


def shown_columns(rows: Sequence[JsonObject]) -> list[Column]:
    """Return the columns that carry information about these rows."""
    differing = [item for item in SETTINGS if len({item.text(row) for row in rows}) > 1]
    known = [item for item in RESULTS if any(item.text(row) not in ("", UNKNOWN) for row in rows)]
    return [*CONFIGURATION, *differing, *known]


def legend(columns: Sequence[Column]) -> list[tuple[str, str]]:
    """Return the explanations of columns, by heading."""
    explained = [(item.head, item.legend) for item in columns if item.legend]
    return [*explained, (UNKNOWN, "unknown, or too few samples")]


def common_settings(rows: Sequence[JsonObject]) -> str:
    """Return the settings that all rows share, in one line."""
    same = [item for item in SETTINGS if item.name != "machine" and len({item.text(row) for row in rows}) == 1]
    return ", ".join(f"{item.head} {item.text(rows[0])}" for item in same)


def skipped(document: JsonObject) -> list[tuple[str, str]]:
    """Return the configurations that were skipped or failed, with the reason; each reason once per backend."""
    models: dict[tuple[str, str, str], list[str]] = {}
    for item in document["skipped"]:
        where = f" on {item['machine']}" if item.get("machine") else ""
        models.setdefault((item["backend"], f"{item['precision']}{where}", item["reason"]), []).append(item["model"])
    lines = [
        (f"{', '.join(dict.fromkeys(names))}: {backend} {precision}", reason)
        for (backend, precision, reason), names in models.items()
    ]
    return lines + [
        (f"{row['slug']}: {row['backend']} {row['precision']} batch {row['batch']}", row["failure"])
        for row in document["rows"]
        if row["failure"]
    ]


def stale(document: JsonObject) -> list[tuple[str, str]]:
    """Return the rows that were measured with other weights than those of the export beside them, with the reason."""
    return [
        (
            f"{row['slug']}: {row['backend']} {row['precision']} batch {row['batch']}",
            f"stale: {row['stale']}. Renew it: {row['command']}",
        )
        for row in document["rows"]
        if row.get("stale")
    ]


def advice_line(item: JsonObject) -> str:
    """Return a piece of advice in one line."""
    return f"{item['model']} ({item['where']}): {item['text']}"


def machine_line(item: JsonObject) -> str:
    """Return a machine and the versions that decide its latencies, in one line."""
    machine, versions = item["machine"], item["versions"]
    kind = f"{machine['kind']}: " if machine.get("kind") else ""
    cores = machine.get("cores", "?")
    parts = [f"{kind}{machine.get('cpu', '?')}, {cores} core{'' if cores == 1 else 's'}", machine.get("system", "")]
    deciding = {"python", *(package for item in backends().values() for package in item.packages)}
    parts += [f"{name} {version}" for name, version in versions.items() if name in deciding]
    return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class MachineColumns:
    """The table: a line has texts under `CONFIGURATION_HEADS`, then those under `MACHINE_HEADS` of each machine."""

    machines: tuple[str, ...]
    lines: list[list[str]]


def side_by_side(rows: Sequence[JsonObject], machines: Sequence[JsonObject]) -> MachineColumns | None:
    """Return the table; None if all rows are of one machine."""
    names = [str(item["machine"].get("kind") or f"machine {index + 1}") for index, item in enumerate(machines)]
    kinds = tuple(sorted({names[row["machine"]] for row in rows}))
    if len(kinds) < 2:
        return None
    lines: dict[tuple[str, ...], list[dict[str, tuple[str, ...]]]] = {}
    for row in rows:
        kind, same = names[row["machine"]], lines.setdefault(_configuration(row), [])
        line = next((cells for cells in same if kind not in cells), None)
        if line is None:  # another device, size or rate on the same machine gets a line of its own
            same.append(line := {})
        line[kind] = (latency_text(row), speedup_text(row) if row["latency"] else UNKNOWN)
    nothing = (UNKNOWN,) * len(MACHINE_HEADS)
    return MachineColumns(
        machines=kinds,
        lines=[
            [*configuration, *(text for kind in kinds for text in cells.get(kind, nothing))]
            for configuration, same in lines.items()
            for cells in same
        ],
    )


def _configuration(row: JsonObject) -> tuple[str, ...]:
    scenario = "" if row["scenario"] == "latency" else f" ({row['scenario']})"
    return row["slug"], f"{_backend(row)}{scenario}", row["precision"], str(row["batch"]), str(row["threads"])
