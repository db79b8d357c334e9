"""The report's rows as cells of a table: for the page, for Markdown and for CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.core.backend import backends
from deploy.report.machines import HEADS, WHAT, side_by_side
from deploy.support import formatting
from deploy.support.formatting import UNKNOWN, duration, size, spread, times_faster

Plain = Mapping[str, Any]
Key = float | str | None

VERDICTS = {"reference": "reference", "pass": "proven", "measured": "measured"}
LEGEND = (
    "parity: reference is what the others are held against, proven is held against float64, measured is eight bits "
    "(see the evidence); latency: median over processes with its 95 % interval; faster: than the baseline, ≈ where "
    "that cannot be told from no difference; best: the fastest of its model, tie: not detectably slower; "
    "of attainable: the floor of this machine over the latency; –: not known, or too few samples to tell"
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: in CSV and as a class of the page.
        head: what people read.
        text: a row's cell.
        key: what the cell is sorted by; None for what is not known.
        number: it holds numbers.
    """

    name: str
    head: str
    text: Callable[[Plain], str]
    key: Callable[[Plain], Key]
    number: bool = True


def _backend(row: Plain) -> str:
    return f"{row['backend']}{' +graph' if row['options'].get('graph') else ''}"


def _median(row: Plain) -> Plain | None:
    return row["latency"]["median_ns"] if row["latency"] else None


def _latency(row: Plain) -> str:
    median = _median(row)
    if median is None:
        return "failed" if row["failure"] else UNKNOWN
    return f"{duration(median['value'])} {spread(**median)}".removesuffix(f" {UNKNOWN}")


def _quantile(name: str) -> Callable[[Plain], float | None]:
    return lambda row: row["latency"][f"{name}_ns"] if row["latency"] else None


def _faster(row: Plain) -> str:
    return times_faster(**row["speedup"]).removesuffix(f" {UNKNOWN}") if row["speedup"] else ""


def _top1(row: Plain) -> str:
    known = row["accuracy"]
    if known is None:
        return UNKNOWN
    low, high = known["top1_interval"]
    return f"{100 * known['top1']:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _attained(row: Plain) -> str:
    limit = row["limit"]
    if not limit or limit["attained"] is None:
        return UNKNOWN
    partly = " *" if limit["unknown"] else ""
    return f"{limit['attained']:.0%} {limit['bound'].partition('-')[0]}{partly}"


def _parity(row: Plain) -> str:
    found = VERDICTS.get(row["evidence"].get("verdict", ""), "?")
    return found + (" !" if row["flags"] else "")


def _field(name: str) -> Callable[[Plain], Any]:
    return lambda row: row[name]


def _words(name: str, form: str = "") -> Callable[[Plain], str]:
    return lambda row: UNKNOWN if row[name] is None else format(row[name], form)


def _value(name: str, part: str) -> Callable[[Plain], float | None]:
    return lambda row: row[name][part] if row[name] else None


def _mark(row: Plain) -> str:
    return row["mark"] or ""


def _rank(row: Plain) -> str:
    return {"best": "0", "tie": "1"}.get(row["mark"], "2")


def _size(row: Plain) -> str:
    return size(row["bytes"])


def _p99(row: Plain) -> str:
    return duration(_quantile("p99")(row))


def _median_ns(row: Plain) -> float | None:
    return (_median(row) or {}).get("value")


COLUMNS: tuple[Column, ...] = (
    Column("model", "architecture", _words("slug"), _field("slug"), number=False),
    Column("backend", "backend", _backend, _backend, number=False),
    Column("precision", "precision", _words("precision"), _field("precision"), number=False),
    Column("parity", "parity", _parity, _parity, number=False),
    Column("latency", "latency", _latency, _median_ns),
    Column("mark", "best", _mark, _rank, number=False),
    Column("p99", "p99", _p99, _quantile("p99")),
    Column("throughput", "samples/s", _words("throughput", ".4g"), _field("throughput")),
    Column("speedup", "faster", _faster, _value("speedup", "value")),
    Column("top1", "top-1", _top1, _value("accuracy", "top1")),
    Column("attained", "of attainable", _attained, _value("limit", "attained")),
    Column("size", "size", _size, _field("bytes")),
    Column("parameters", "parameters", _words("parameters", ",d"), _field("parameters")),
)
"""In the order of the page; a column in which nothing is known is left out."""


def _machine(row: Plain) -> str:
    return str(row["machine"] + 1)


SETTINGS: tuple[Column, ...] = (
    Column("batch", "batch", _words("batch"), _field("batch")),
    Column("threads", "threads", _words("threads"), _field("threads")),
    Column("scenario", "scenario", _words("scenario"), _field("scenario"), number=False),
    Column("device", "device", _words("device"), _field("device"), number=False),
    Column("machine", "machine", _machine, _field("machine")),
)
"""Shown where rows differ in them."""


def columns_of(rows: Sequence[Plain]) -> list[Column]:
    """The columns that tell something about these rows."""
    differing = [item for item in SETTINGS if len({item.text(row) for row in rows}) > 1]
    known = [item for item in COLUMNS if any(item.text(row) not in ("", UNKNOWN) for row in rows)]
    return [*known[:3], *differing, *known[3:]]


def common_settings(rows: Sequence[Plain]) -> str:
    """What all rows share, which therefore is no column."""
    same = [item for item in SETTINGS if item.name != "machine" and len({item.text(row) for row in rows}) == 1]
    return ", ".join(f"{item.head} {item.text(rows[0])}" for item in same)


def absences(document: Plain) -> list[tuple[str, str]]:
    """What could not be timed, and why: the same reason once, with the models it holds for."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for item in document["absent"]:
        where = f" on {item['machine']}" if item.get("machine") else ""
        found.setdefault((item["backend"], f"{item['precision']}{where}", item["why"]), []).append(item["model"])
    told = [
        (f"{', '.join(dict.fromkeys(models))}: {backend} {precision}", why)
        for (backend, precision, why), models in found.items()
    ]
    failed = [row for row in document["rows"] if row["failure"]]
    return told + [
        (f"{row['slug']}: {row['backend']} {row['precision']} batch {row['batch']}", row["failure"]) for row in failed
    ]


def as_markdown(document: Plain) -> str:
    """The advice, the table, its legend, and what is not in it."""
    rows = document["rows"]
    columns = columns_of(rows)
    lines = [f"# Latency report, {document['created'][:10]}", "", *document["how"], ""]
    lines += [f"- machine {index + 1}: {machine_line(item)}" for index, item in enumerate(document["machines"])]
    lines += ["", *(f"- {_plain(advice_line(item))}" for item in document["advice"]), ""]
    lines += [f"All rows: {_plain(common_settings(rows))}.", ""]
    lines.append("| " + " | ".join(item.head for item in columns) + " |")
    lines.append("|" + "".join("---:|" if item.number else "---|" for item in columns))
    lines += ["| " + " | ".join(_plain(item.text(row)) for item in columns) + " |" for row in rows]
    lines += ["", LEGEND + ".", "", *_side_by_side(document)]
    lines += [f"- {_plain(what)}: {_plain(why)}" for what, why in absences(document)]
    return "\n".join(lines).rstrip() + "\n"


def _side_by_side(document: Plain) -> list[str]:
    """The rows of several machines beside each other, where there are several."""
    side = side_by_side(document["rows"], document["machines"])
    if side is None:
        return []
    heads = [*WHAT, *(f"{kind}: {head}" for kind in side.machines for head in HEADS)]
    lines = ["## Machines side by side", "", "| " + " | ".join(map(_plain, heads)) + " |"]
    lines.append("|" + "---|" * len(WHAT) + "---:|" * (len(heads) - len(WHAT)))
    for line in side.lines:
        cells = [*line.what, *(text for group in line.cells for text in group)]
        lines.append("| " + " | ".join(map(_plain, cells)) + " |")
    return [*lines, ""]


def advice_line(item: Plain) -> str:
    """A piece of advice in one line."""
    return f"{item['model']} ({item['where']}): {item['text']}"


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for sign in "\\|<>*_`[]":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return " ".join(text.split())


def machine_line(item: Plain) -> str:
    """A machine in one line."""
    machine, versions = item["machine"], item["versions"]
    kind = f"{machine['kind']}: " if machine.get("kind") else ""
    parts = [f"{kind}{machine.get('cpu', '?')}, {_cores(machine)}", str(machine.get("system", ""))]
    deciding = {"python", *(package for item in backends().values() for package in item.packages)}
    parts += [f"{name} {text}" for name, text in versions.items() if name in deciding]
    return ", ".join(part for part in parts if part)


def _cores(machine: Plain) -> str:
    count = machine.get("cores", "?")
    return f"{count} core{'' if count == 1 else 's'}"


LISTS = ("medians_ns", "quantiles_ns")


def as_csv(document: Plain) -> str:
    """One line a row, numbers in full: nanoseconds, bytes, shares."""
    return formatting.as_csv(document["rows"], without=LISTS)
