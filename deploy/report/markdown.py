"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deploy.report import tables
from deploy.report.rows import JsonObject
from deploy.report.tables import advice_line, common_settings, legend, machine_line, shown_columns, skipped, stale


def as_markdown(document: JsonObject) -> str:
    """Return the report as Markdown: machines, advice, table, legend, skipped configurations."""
    rows = document["rows"]
    columns = shown_columns(rows)
    lines = [f"# Latency report, {document['created'][:10]}", "", *document["how"], ""]
    lines += [f"- machine {index + 1}: {machine_line(item)}" for index, item in enumerate(document["machines"])]
    lines += ["", *(f"- {_escape(advice_line(item))}" for item in document["advice"]), ""]
    settings = common_settings(rows)
    lines += [f"All rows: {_escape(settings)}.", ""] if settings else []
    lines += _table(
        [item.head for item in columns],
        [item.number for item in columns],
        ([item.text(row) for item in columns] for row in rows),
    )
    lines += [*(f"- {_escape(head)}: {_escape(text)}" for head, text in legend(columns)), ""]
    side = tables.side_by_side(rows, document["machines"])
    if side is not None:
        lines += ["## Machines side by side", ""]
        heads = [f"{kind}: {head}" for kind in side.machines for head in tables.MACHINE_HEADS]
        numbers = [False] * len(tables.CONFIGURATION_HEADS) + [True] * len(heads)
        lines += _table([*tables.CONFIGURATION_HEADS, *heads], numbers, side.lines)
    if document["plans"]:
        lines += ["## What half precision leaves in float32", ""]
        for plan in document["plans"]:
            lines += [f"- {_escape(plan['file'])}: {_escape(plan['summary'])}"]
            lines += [f"  - {_escape(line)}" for line in plan["blocks"]]
        lines += [""]
    renewable = stale(document)
    if renewable:
        lines += ["## Stale rows", ""]
        lines += [f"- {_escape(configuration)}: {_escape(text)}" for configuration, text in renewable]
        lines += [""]
    left_out = skipped(document)
    if left_out:
        lines += ["## Skipped configurations", ""]
        lines += [f"- {_escape(configuration)}: {_escape(reason)}" for configuration, reason in left_out]
    return "\n".join(lines).rstrip() + "\n"


def _table(heads: Sequence[str], numbers: Sequence[bool], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [_line(heads), "|" + "".join("---:|" if number else "---|" for number in numbers)]
    return [*lines, *map(_line, rows), ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escape, cells)) + " |"


def _escape(text: str) -> str:
    """Return text that Markdown renders literally, in one line."""
    for sign in "\\|*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("<", "&lt;").replace(">", "&gt;").split())
